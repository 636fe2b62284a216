internal import CLinux
internal import Glibc
internal import Synchronization

/// Programs of the host that tests use, and where they are.
package enum Tool {
    /// The path of `name` in PATH, or nil.
    package static func find(_ name: String) -> String? {
        if name.contains("/") { return access(name, X_OK) == 0 ? name : nil }
        let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"
        for directory in (path + ":/usr/sbin:/sbin").split(separator: ":") {
            let candidate = "\(directory)/\(name)"
            if access(candidate, X_OK) == 0 { return candidate }
        }
        return nil
    }

    /// Whether every one of `names` is there: for `.enabled(if: Tool.has("qemu-img"), "qemu-img is missing")`.
    package static func has(_ names: String...) -> Bool { names.allSatisfy { find($0) != nil } }
}

/// What a program left behind.
package struct CommandResult: Sendable, CustomStringConvertible {
    /// The command line, for messages.
    package var command: [String]
    /// The exit status; 128 + n after signal n.
    package var status: Int32
    /// What it wrote to standard output.
    package var output: [UInt8]
    /// What it wrote to standard error.
    package var errors: String
    /// Whether it was ended because its time was up.
    package var timedOut: Bool

    /// Standard output as text.
    package var text: String { String(decoding: output, as: UTF8.self) }

    /// Whether it ended with status 0, in time.
    package var succeeded: Bool { status == 0 && !timedOut }

    package var description: String {
        let outcome = timedOut ? "timed out" : "status \(status)"
        return "\(command.joined(separator: " ")): \(outcome)\n\(text.prefix(2000))\(errors.prefix(2000))"
    }
}

/// A running program, started by `posix_spawn` in a process group of its own, with standard input from /dev/null.
///
/// Where it still runs when the reference goes, it and its group are ended.
package final class ChildProcess: Sendable {
    /// The process id, which is also that of its group.
    package let pid: Int32
    private let command: [String]
    private let outputs: [Int32]
    private let ended = Mutex<Int32?>(nil)

    /// Starts `tool` (a name in PATH, or a path). `environment` adds to and replaces what the test has;
    /// `outputFile` takes standard output instead of the result.
    package init(
        _ tool: String, _ arguments: [String] = [], environment: [String: String] = [:], directory: String? = nil,
        outputFile: String? = nil
    ) throws {
        guard let found = Tool.find(tool) else { throw HostFailure("there is no program \(tool)", errno: 0) }
        command = [tool] + arguments
        // env(1) changes the directory and becomes the program.
        let path = directory == nil ? found : Tool.find("env") ?? "/usr/bin/env"
        let arguments = directory.map { ["-C", $0, found] + arguments } ?? arguments
        var ends: [[Int32]] = []
        for _ in 0..<2 {
            var pair: [Int32] = [-1, -1]
            guard clinux_make_pipe(&pair, 1 << 16) > 0 else { throw HostFailure("cannot make a pipe") }
            ends.append(pair)
        }
        defer { for pair in ends { close(pair[1]) } }
        outputs = ends.map { $0[0] }
        for descriptor in outputs { _ = fcntl(descriptor, F_SETFL, O_NONBLOCK) }

        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        if let outputFile {
            posix_spawn_file_actions_addopen(&actions, 1, outputFile, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
        } else {
            posix_spawn_file_actions_adddup2(&actions, ends[0][1], 1)
        }
        posix_spawn_file_actions_adddup2(&actions, ends[1][1], 2)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP))
        posix_spawnattr_setpgroup(&attributes, 0)

        var pid: Int32 = 0
        let code = Self.withStrings([path] + arguments) { arguments in
            Self.withStrings(Self.environment(adding: environment)) { variables in
                posix_spawn(&pid, path, &actions, &attributes, arguments, variables)
            }
        }
        guard code == 0 else {
            for descriptor in outputs { close(descriptor) }
            throw HostFailure("cannot start \(path)", errno: code)
        }
        self.pid = pid
    }

    deinit {
        stop(SIGKILL)
        for descriptor in outputs { close(descriptor) }
    }

    /// Whether it has not ended yet.
    package var isRunning: Bool { poll() == nil }

    /// Sends a signal to the process alone, if it still runs.
    package func signal(_ number: Int32) {
        ended.withLock { if $0 == nil { kill(pid, number) } }
    }

    /// Ends the process and its group, and waits for the process.
    package func stop(_ number: Int32 = SIGTERM) {
        guard poll() == nil else { return }
        kill(-pid, number)
        for _ in 0..<2000 where poll() == nil { usleep(1000) }
        if poll() == nil {
            kill(-pid, SIGKILL)
            while poll() == nil { usleep(1000) }
        }
    }

    /// Waits until the process ends, or ends it after `timeout` seconds, and gives what it wrote meanwhile. A program
    /// that leaves a daemon behind counts as ended although the daemon holds its output.
    package func wait(timeout: Double = 60) -> CommandResult {
        var result = CommandResult(command: command, status: 0, output: [], errors: "", timedOut: false)
        var errors: [UInt8] = []
        var open = [true, true]
        let deadline = monotonicSeconds() + timeout
        while true {
            let status = poll()
            if open[0] { open[0] = drain(outputs[0], into: &result.output) }
            if open[1] { open[1] = drain(outputs[1], into: &errors) }
            if let status {
                result.status = status
                break
            }
            if monotonicSeconds() > deadline {
                result.timedOut = true
                stop(SIGKILL)
                continue
            }
            if open.contains(true) {
                var waits = zip(outputs, open).filter { $1 }.map { pollfd(fd: $0.0, events: Int16(POLLIN), revents: 0) }
                _ = Glibc.poll(&waits, nfds_t(waits.count), 20)
            } else {
                usleep(1000)
            }
        }
        result.errors = String(decoding: errors, as: UTF8.self)
        return result
    }

    /// The exit status once there is one.
    private func poll() -> Int32? {
        ended.withLock { ended in
            if let ended { return ended }
            var status: Int32 = 0
            guard waitpid(pid, &status, WNOHANG) == pid else { return nil }
            let signal = status & 0x7F
            ended = signal == 0 ? (status >> 8) & 0xFF : 128 + signal
            return ended
        }
    }

    /// Reads what there is; false at the end of the pipe.
    private func drain(_ descriptor: Int32, into bytes: inout [UInt8]) -> Bool {
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = read(descriptor, &buffer, buffer.count)
            if count > 0 {
                bytes += buffer[..<count]
            } else if count == 0 {
                return false
            } else if errno != EINTR {
                return true
            }
        }
    }

    private static func environment(adding changes: [String: String]) -> [String] {
        let own = ((try? HostFiles.read("/proc/self/environ")) ?? []).split(separator: 0)
        var variables = changes
        for entry in own.map({ String(decoding: $0, as: UTF8.self) }) {
            guard let equals = entry.firstIndex(of: "=") else { continue }
            let name = String(entry[..<equals])
            if variables[name] == nil { variables[name] = String(entry[entry.index(after: equals)...]) }
        }
        return variables.map { "\($0.key)=\($0.value)" }
    }

    private static func withStrings(
        _ strings: [String], _ body: ([UnsafeMutablePointer<CChar>?]) -> Int32
    ) -> Int32 {
        let copies = strings.map { strdup($0) }
        defer { for copy in copies { free(copy) } }
        return body(copies + [nil])
    }
}

/// Runs a program to its end, for at most `timeout` seconds.
package func run(
    _ tool: String, _ arguments: String..., environment: [String: String] = [:], directory: String? = nil,
    outputFile: String? = nil, timeout: Double = 60
) throws -> CommandResult {
    try ChildProcess(
        tool, arguments, environment: environment, directory: directory, outputFile: outputFile
    ).wait(timeout: timeout)
}

/// Runs a program that has to succeed, and gives its standard output; throws with all that it said otherwise.
@discardableResult
package func runSuccessfully(_ tool: String, _ arguments: String..., timeout: Double = 60) throws -> String {
    let result = try ChildProcess(tool, arguments).wait(timeout: timeout)
    guard result.succeeded else { throw HostFailure("\(result)", errno: 0) }
    return result.text
}
