//! What a device can do: views, arenas, training ops, the CPU and the shape-only device.
