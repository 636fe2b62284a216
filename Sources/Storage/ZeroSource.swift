internal import CLinux
internal import Glibc

/// Zeros that can be spliced into a pipe: one sparse anonymous file that the whole process shares.
package final class ZeroSource: Sendable {
    /// The process's source; nil where the system gives no anonymous file.
    package static let shared = ZeroSource()

    private static let bytes = 1 << 20
    private let descriptor: Int32

    private init?() {
        descriptor = clinux_zero_file(Self.bytes)
        guard descriptor >= 0 else { return nil }
    }

    deinit { close(descriptor) }

    /// Moves up to `count` zero bytes into the pipe and returns how many went; nil when they can only be written.
    /// Throws `.io`, also when the pipe is full.
    package func splice(count: Int, into pipe: PipeWriter) throws(ImageError) -> Int? {
        while true {
            let moved = clinux_splice_to_pipe(descriptor, 0, pipe.descriptor, min(count, Self.bytes))
            if moved >= 0 { return moved }
            switch errno {
            case EINTR: continue
            case EINVAL, EAGAIN: return nil
            case let code: throw ImageError(.io, "cannot move zeros into a pipe", errno: code)
            }
        }
    }
}
