//! Typed settings: defaults file < config file < EXPLAIND_* environment < flags; all faults reported at once.
