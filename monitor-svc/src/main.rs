//! The monitor's program. All of it lies in the library, where tests reach it.

fn main() -> std::process::ExitCode {
    monitor_svc::commands::main().into()
}
