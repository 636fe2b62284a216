internal import Glibc
internal import Storage

/// How the program ends, with the numbers of mount(8).
enum ExitStatus: Int32, Sendable {
    /// Everything was done.
    case success = 0
    /// The arguments are wrong, or not supported by this version.
    case usage = 1
    /// The system or an image failed a command other than mount and umount.
    case system = 2
    /// A check found leaks and nothing worse.
    case leaks = 3
    /// Nothing was mounted, or nothing unmounted.
    case mount = 32
    /// A check is not possible for images of this kind.
    case unsupported = 63
    /// Standard output is a pipe that nobody reads: the number that shells show for SIGPIPE.
    case brokenPipe = 141

    /// An image could not be checked: the number of qemu-img check.
    static let unchecked = ExitStatus.usage
    /// A check found corruption: the number of qemu-img check.
    static let corruption = ExitStatus.system
}

/// What a command could not do: one line for a person, and the exit status.
struct Failure: Error, Sendable, Equatable {
    /// The exit status.
    var status: ExitStatus
    /// "FILE: what is wrong; what to do", without the program's name and without a line end.
    var message: String

    /// A failure with a line for a person.
    init(_ status: ExitStatus, _ message: String) {
        self.status = status
        self.message = message
    }

    /// Arguments that make no sense; says where the right ones are listed.
    static func usage(_ message: String, command: String? = nil) -> Failure {
        Failure(.usage, message + advice(on: command))
    }

    private static func advice(on command: String?) -> String {
        "; see " + (command.map { "platter \($0) --help" } ?? "platter --help")
    }

    /// The same failure with the help of `command` in the place of the general one.
    func within(_ command: String) -> Failure {
        let general = Self.advice(on: nil)
        guard status == .usage, message.hasSuffix(general) else { return self }
        return Failure(status, String(message.dropLast(general.count)) + Self.advice(on: command))
    }

    /// An image that cannot be opened or read, at `path` unless the error knows a better name.
    init(_ status: ExitStatus, _ error: ImageError, path: String) {
        self.init(status, Self.words(for: error.named(path)))
    }

    /// What is wrong with a file and what to do, wherever a command says it.
    static func words(for error: ImageError) -> String { error.description + advice(on: error) }

    private static func advice(on error: ImageError) -> String {
        switch error.errno {
        case EMFILE: return "; raise the limit on open files (ulimit -n)"
        case ENFILE: return "; raise the system's limit on open files (sysctl fs.file-max)"
        default: break
        }
        guard error.detail == nil, error.what.description.hasPrefix("cannot") else { return "" }
        switch error.kind {
        case .missing: return ": there is no such file; check the path"
        case .denied: return advice(onDenied: error)
        case .readOnly: return ": its filesystem is mounted read-only"
        default: return ""
        }
    }

    private static func advice(onDenied error: ImageError) -> String {
        error.what.description.hasSuffix("for writing")
            ? ": permission denied; check who may write to it" : ": permission denied; check who may read it"
    }

    /// The line as it is written: control characters, which a file's name may hold, cannot break or colour it.
    var line: String { "platter: \(Printable.line(message))\n" }
}
