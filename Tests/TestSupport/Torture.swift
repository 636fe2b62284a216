internal import Glibc

/// How much longer random campaigns run than in `make test`: PLATTER_TORTURE, as `make torture` sets it, otherwise 1.
package enum Torture {
    /// The factor, at least 1.
    package static let factor = max(1, getenv("PLATTER_TORTURE").flatMap { Int(String(cString: $0)) } ?? 1)
}
