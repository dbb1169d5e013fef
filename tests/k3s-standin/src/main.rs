//! k3s-standin: see the library.

fn main() -> std::process::ExitCode {
    let status = k3s_standin::cli::run(std::env::args_os().collect());
    std::process::ExitCode::from(u8::try_from(status).unwrap_or(1))
}
