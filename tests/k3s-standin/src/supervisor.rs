//! lab-supervisor.
