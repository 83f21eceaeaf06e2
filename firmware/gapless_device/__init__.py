"""The firmware of a Gapless board: samples, numbers, keeps, and hands over to the link."""

VERSION = "0.1.0"
