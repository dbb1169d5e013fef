//! lab-supervisor: see the library's `supervisor`.

fn main() -> std::process::ExitCode {
    let status = k3s_standin::supervisor::main(std::env::args_os().collect());
    std::process::ExitCode::from(u8::try_from(status).unwrap_or(1))
}
