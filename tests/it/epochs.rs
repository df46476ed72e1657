//! Epochs of keys: what operators choose, make and retire.

mod apps;
mod nodes;
