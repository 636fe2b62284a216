internal import Glibc

/// How long random campaigns run, and from which seed; the environment says so.
package enum Torture {
    /// What everything random comes from (PLATTER_TORTURE_SEED).
    package static let seed = UInt64(max(0, number("PLATTER_TORTURE_SEED") ?? 1))

    /// How many states are looked at after a loss of power: PLATTER_TORTURE_STATES, or `usual`.
    package static func states(_ usual: Int) -> Int { number("PLATTER_TORTURE_STATES") ?? usual }

    private static func number(_ name: String) -> Int? {
        getenv(name).flatMap { Int(String(cString: $0)) }
    }
}
