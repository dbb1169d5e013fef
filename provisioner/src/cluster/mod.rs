//! The pure decisions about machines and the cluster: state machines with `now` as an argument.

/// Which declared machine a caller is, and whether its key counts.
pub mod admission;
/// Which disk is a machine's.
pub mod disks;
/// An order's life, and what a machine hears.
pub mod orders;

/// What only a person may decide.
pub mod by_hand;
/// What the servers' reports say together.
pub mod evidence;
/// Init once ever, then one join at a time.
pub mod membership;
/// What is remembered of all this.
pub mod record;
/// Labels, taints and add-ons as declared.
pub mod upkeep;
