//! What a run leaves outside of Muster (packets on the wire, words on serial lines), read without asking Muster anything.
//! PURE: bytes in, facts out; bounded by what it is given, and nothing in a file makes it panic.

// the wire
mod frame;
pub(crate) mod pcap;
// the serial lines
pub(crate) mod spoken;
// the stages, by both alone, and beside what was reported
pub(crate) mod compare;
pub(crate) mod stages;
// secrets in other people's bytes
pub(crate) mod needles;
