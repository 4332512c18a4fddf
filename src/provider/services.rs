//! Services and Ingresses that follow pods into their targets.
