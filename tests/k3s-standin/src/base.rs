//! What everything leans on.

pub mod clock; // wall time as the texts and objects want it
pub mod faults; // switches that a test can flip while k3s runs
pub mod http; // HTTPS client
pub mod keys; // configuration keys of k3s
pub mod log; // log lines in logrus form
pub mod notify; // sd_notify
pub mod paths; // where everything lies
pub mod pki; // certificate authorities and leaves
pub mod settings; // config.yaml and flags, meant
pub mod tls; // rustls configurations
pub mod version; // what --version says
pub mod web; // HTTPS server
pub mod yaml; // YAML as JSON values
