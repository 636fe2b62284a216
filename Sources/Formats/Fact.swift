/// One thing that an image says about itself, for `platter info`.
package struct Fact: Sendable, Equatable {
    /// A value of a type that programs can rely on.
    package enum Value: Sendable, Equatable {
        /// Words, a name, or an identifier.
        case text(String)
        /// A number that is no size.
        case number(UInt64)
        /// A size in bytes.
        case bytes(UInt64)
        /// Yes or no.
        case flag(Bool)
        /// Several words or names, in the image's order.
        case list([String])
        /// The image has a place for it and records nothing there.
        case absent
    }

    /// The name for programs, which never changes: lower camel case, without spaces ("clusterSize").
    package var key: String
    /// The name for people, as on the format's own page ("cluster size").
    package var title: String
    /// What the image says.
    package var value: Value

    /// Makes a fact of its parts.
    package init(_ key: String, _ title: String, _ value: Value) {
        self.key = key
        self.title = title
        self.value = value
    }
}
