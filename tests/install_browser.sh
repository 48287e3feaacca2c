#!/usr/bin/env bash
# The browser of tests/report/test_pages_in_browser.py, from Debian; nothing where it is installed.
set -euo pipefail
if ! { command -v chromium && command -v chromedriver; } > /dev/null; then
  if [ "$(id -u)" = 0 ]; then as_root=(); else as_root=(sudo); fi
  "${as_root[@]}" apt-get update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends chromium chromium-driver
fi
