# SPDX-License-Identifier: GPL-2.0-or-later
# Commands that set up all that they need: `make demo`, `make demo-live`, `make test`, `make bench`.

VENV   := .venv
PYTHON := $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
            $(shell command -v $(p) >/dev/null 2>&1 && $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
BIN    := $(VENV)/bin
# As pip does for what is not editable; Python itself does not where PYTHONDONTWRITEBYTECODE is set.
COMPILE = $(BIN)/python -m compileall -q analysis dissector
DEMO   := pcaps/colo-hvm-fast.A.pcap.zst
REPORT := colo-hvm-fast.A.html

# Programs that only the tests or the benchmark need, and the Debian packages that have them.
programs: PROGRAMS := \
  tshark:tshark dumpcap:wireshark-common tcpdump:tcpdump ip:iproute2 editcap:wireshark-common ld:binutils \
  chromium:chromium luacheck:lua-check luac5.1:lua5.1 luac5.2:lua5.2 luac5.3:lua5.3 luac5.4:lua5.4
bench-programs: PROGRAMS := \
  tshark:tshark capinfos:wireshark-common tcpdump:tcpdump pigz:pigz zstd:zstd
live-programs: PROGRAMS := dumpcap:wireshark-common ip:iproute2
APT      := $(if $(filter 0,$(shell id -u)),,sudo) env DEBIAN_FRONTEND=noninteractive apt-get

# Seconds for which `make fuzz` fuzzes each of its harnesses.
FUZZ_SECONDS := 600
HARNESSES    := reader streams framing scapy_layer capture

# What `make bench` is told, for instance --quick, --only NAME, --folder PLACE.
BENCH :=

.PHONY: demo demo-live test lint fuzz bench programs bench-programs live-programs clean

demo: $(VENV)/ready
	@echo
	@echo "== $(DEMO): latency between sync-points"
	@$(BIN)/coloscope latency --format table $(DEMO)
	@echo
	@echo "== its checkpoints (the first ten of 50)"
	@$(BIN)/coloscope checkpoints --format table $(DEMO) | head -12
	@echo
	@echo "== the report"
	@$(BIN)/coloscope report $(DEMO) -o $(REPORT)
	@echo "Open it in a browser: xdg-open $(REPORT)"
	@echo
	@echo "Now try it on a capture of yours: $(BIN)/coloscope report FILE"

# Both ends of a COLO pair on this machine, watched; other options: LIVE="--format jsonl"
demo-live: $(VENV)/ready-for-live live-programs
	@$(BIN)/python -m tests.synthesiser.demo $(LIVE)

test: $(VENV)/ready-for-tests programs lint
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/ready-for-tests
	$(BIN)/ruff check .
	$(BIN)/mypy

fuzz: $(VENV)/ready-for-tests
	@for harness in $(HARNESSES); do \
	  echo "== $$harness, $(FUZZ_SECONDS) s"; \
	  $(BIN)/python -m fuzz $$harness -max_total_time=$(FUZZ_SECONDS) -timeout=60 || exit 1; \
	done

bench: $(VENV)/ready-for-bench bench-programs
	@$(COMPILE)
	@$(BIN)/python -m benchmarks.speed $(BENCH)

programs bench-programs live-programs:
	@missing="$(foreach p,$(PROGRAMS),$$(command -v $(firstword $(subst :, ,$(p))) >/dev/null 2>&1 || echo $(lastword $(subst :, ,$(p)))))"; \
	missing=$$(echo $$missing | tr ' ' '\n' | sort -u | tr '\n' ' '); \
	if [ -n "$${missing% }" ]; then \
	  echo "installing $$missing"; $(APT) update -q && $(APT) install -qy --no-install-recommends $$missing; \
	fi

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "coloscope needs Python 3.11 or later; none was found"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "installing python3-venv"; \
	  $(APT) update -q && $(APT) install -qy --no-install-recommends python3-venv; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/ready: $(VENV)/bin/python pyproject.toml
	@echo "installing coloscope and what it needs into $(VENV) (a minute)"
	@$(BIN)/python -m pip install -q -e '.[report]'
	@$(COMPILE)
	@touch $@

$(VENV)/ready-for-tests: $(VENV)/ready
	$(BIN)/python -m pip install -q -e '.[test]'
	@touch $@

$(VENV)/ready-for-live: $(VENV)/ready
	@$(BIN)/python -m pip install -q -e '.[live]'
	@touch $@

$(VENV)/ready-for-bench: $(VENV)/ready
	@$(BIN)/python -m pip install -q -e '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) $(REPORT) build *.egg-info
