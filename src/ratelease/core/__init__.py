"""The decisions of ratelease: pure, without I/O, threads, clocks or chance."""
