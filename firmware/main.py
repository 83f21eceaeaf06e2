"""Start-up only: everything else is compiled, in gapless_device."""

import gapless_device.start

gapless_device.start.run()
