# A newcomer's door. Every target sets up what is missing, says what that is, and hands over to Invoke.
INVOKE = .venv/bin/invoke
PREFIX = /usr/local
DESTDIR =

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-long install uninstall lint build clean setup-build setup-test

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: setup-test ## show on a transfer of its own what chadthrottle does (as root, or through sudo)
	@$(INVOKE) demo

test: setup-test ## run the tests, those of the kernel too (as root, or through sudo)
	@$(INVOKE) test

test-long: setup-test ## run those that take long: stress, faults at every step, demo, benchmarks
	@$(INVOKE) test-long

install: setup-build ## install a release build into PREFIX (/usr/local)
	@$(INVOKE) install --prefix="$(PREFIX)" --destdir="$(DESTDIR)"

uninstall: setup-build ## remove what install made
	@$(INVOKE) uninstall --prefix="$(PREFIX)" --destdir="$(DESTDIR)"

lint: setup-build ## check style and types
	@$(INVOKE) lint

build: setup-build ## debug objects and an editable install in .venv
	@$(INVOKE) build

clean: setup-build ## remove what builds and tools left
	@$(INVOKE) clean

setup-build:
	@tools/setup.sh build

setup-test:
	@tools/setup.sh test
