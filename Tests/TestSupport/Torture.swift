internal import Glibc

/// How much longer random campaigns run than in `make test`, and from which seed; the environment says so.
package enum Torture {
    /// How many times as long: PLATTER_TORTURE, as `make torture` sets it, otherwise 1.
    package static let factor = max(1, number("PLATTER_TORTURE") ?? 1)

    /// What everything random comes from (PLATTER_TORTURE_SEED).
    package static let seed = UInt64(max(0, number("PLATTER_TORTURE_SEED") ?? 1))

    /// How many states of one image are looked at after a loss of power: PLATTER_TORTURE_STATES, or `usual` times `factor`.
    package static func states(_ usual: Int) -> Int { number("PLATTER_TORTURE_STATES") ?? usual * factor }

    private static func number(_ name: String) -> Int? {
        getenv(name).flatMap { Int(String(cString: $0)) }
    }
}
