"""Measurements of Gapless beside what it is compared with: `tox run -e bench -- NAME [--json]`.

A figure is a ratio of two things that ran side by side in one run, interleaved, as a median. No
test times anything.
"""
