internal import Glibc

/// The program. Everything returns here, and here alone it exits.
@main struct Platter {
    nonisolated static func main() {
        StandardStreams.complete()
        let status: ExitStatus
        do throws(Failure) {
            status = try run(arguments: Arguments.ofProcess())
        } catch {
            if error.status == .brokenPipe { StandardStreams.endByPipe() } else { Output.report(error) }
            status = error.status
        }
        exit(status.rawValue)
    }

    /// Runs what `arguments` (the program's name first) ask for.
    nonisolated static func run(arguments: [String]) throws(Failure) -> ExitStatus {
        let (command, rest) = try Command.choose(arguments)
        return try command.run(rest)
    }
}
