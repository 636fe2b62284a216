internal import Storage

/// The rules for names in the mount: the whole original name and ".raw", so that no two images meet in one name and a
/// name does not change when a neighbour appears.
enum ExposedName {
    private static let suffix = Name(".raw".utf8)
    /// The longest name that directory listings can carry.
    static let longest = 255

    /// Whether `name` ends with ".raw", in any case.
    static func hasSuffix(_ name: Name) -> Bool {
        name.count > suffix.count && name.suffix(4).map { $0 | 0x20 } == suffix
    }

    /// The name in the mount of the image called `name`: a raw disk keeps its name, and so does one whose name would
    /// become too long.
    static func of(_ name: Name) -> Name {
        hasSuffix(name) || name.count + suffix.count > longest ? name : name + suffix
    }

    /// The name that an image takes when its usual one belongs to a neighbour.
    static func yielding(_ usual: Name) -> Name { usual + Name(".1".utf8) }

    /// The image names that `exposed` may stand for, the one that wins first.
    static func origins(of exposed: Name) -> [Name] {
        var result = [exposed]
        for end in [suffix, yielding(suffix)] where exposed.count > end.count && exposed.suffix(end.count) == end[...] {
            result.append(Name(exposed.dropLast(end.count)))
        }
        return result.filter { of($0) == exposed || yielding(of($0)) == exposed }
    }

    /// What views of an image are named after: the original name.
    static func stem(of exposed: Name) -> Name {
        exposed.count > suffix.count && exposed.suffix(4) == suffix[...] ? Name(exposed.dropLast(4)) : exposed
    }

    /// `name` fit for a file name: no slash, no control byte, no more than 200 bytes, not "." or "..".
    static func sanitised(_ name: some Sequence<UInt8>) -> Name {
        let clean = name.prefix(200).map { $0 < 0x20 || $0 == 0x7F || $0 == UInt8(ascii: "/") ? UInt8(ascii: "_") : $0 }
        return clean.isEmpty || clean.allSatisfy { $0 == UInt8(ascii: ".") } ? Name("_".utf8) : clean
    }
}
