/// The program's version.
enum Version {
    /// As `--version` shows it.
    static let text = "0.1.0"
}
