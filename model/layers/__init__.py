"""State-space duality: scan, convolution and attention that isolate packed documents."""
