"""Models of other libraries, in and out: name maps as data, tensors streamed one by one."""
