internal import Glibc

/// The time of day.
package enum WallClock {
    /// The seconds since 1970.
    package static var seconds: Int64 { Int64(time(nil)) }
}
