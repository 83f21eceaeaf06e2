"""Board profiles: a module each, chosen by the setting `profile`.

A profile has `Board`, with these attributes and methods:

    name                  str, the board as HELLO tells it
    uid                   bytes of 1..16, the MCU's own number
    frame_bytes_max       longest frame that the port can buffer
    unanswered_bytes_max  bytes that the port can buffer in all
    registers             RTC backup registers: read(index) -> int, write(index, value), index 0..3;
                          or None where there are none
    sensors               dict: value's name (unit last) -> function(ticks_ms) -> int
    ticks_ms()            int in [0, 2**30)
    reset_cause()         str
    port                  open() claims it (no interrupt character, no REPL), close() gives it
                          back; read_into(buffer) -> int and write(view) -> int never block for
                          longer than a few ms; wait(ms) sleeps until bytes arrive or time is up
    feed()                the watchdog, called while the loop makes progress
    show(linked)          the LED
    sync()                after a file was written
    sleep(ms)
    reset()               does not return
"""
