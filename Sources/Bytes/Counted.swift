extension BinaryInteger {
    /// Returns the number with the word for what it counts: "1 byte", "2 bytes". `many` is for words whose plural is
    /// not made by an "s" ("entries").
    package func counted(_ one: String, _ many: String? = nil) -> String {
        "\(self) \(self == 1 ? one : many ?? one + "s")"
    }
}
