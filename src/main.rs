//! The command line, nothing else: see `cli`.

fn main() -> std::process::ExitCode {
    retrovisor::cli::main()
}
