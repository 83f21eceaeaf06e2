# The two commands of the README, and a few for those who work on Gapless. Everything is set up in
# the checkout; nothing is installed system-wide. PYTHON=python3.12 make test picks an interpreter.
PYTHON ?= python3
SETUP = tools/set_up.py

.PHONY: help demo test bench lint clean

help:
	@echo "make demo    the field demo on this machine, about a minute after the first set-up"
	@echo "             (make demo ARGS='--devices 5 --duration 120': see gapless demo --help)"
	@echo "make test    everything that is promised, in its own environments"
	@echo "make bench   how fast it is, beside what it is compared with: some minutes, 1 GB of disk"
	@echo "make lint    ruff and the type checkers only"
	@echo "make clean   remove the environments that the commands above made"

# exec: Ctrl-C goes to the demo itself, which stops its children and then ends.
demo:
	@exec $(PYTHON) $(SETUP) demo -- $(ARGS)

test:
	@exec $(PYTHON) $(SETUP) tox -- run $(ARGS)

bench:
	@exec $(PYTHON) $(SETUP) tox -- run -e bench -- $(or $(ARGS),all)

lint:
	@exec $(PYTHON) $(SETUP) tox -- run -e lint,types,types-firmware

clean:
	rm -rf .venv .venv.new .tox .setup.lock
