internal import Storage

extension QCOW2 {
    /// The incompatible features that platter honours (QEMU, docs/interop/qcow2, "incompatible_features").
    struct Incompatible: OptionSet, Sendable {
        let rawValue: UInt64

        /// The image was not closed: its refcounts may be wrong.
        static let dirty = Incompatible(rawValue: 1 << 0)
        /// A writer found metadata in contradiction.
        static let corrupt = Incompatible(rawValue: 1 << 1)
        /// The guest's clusters are in a file of their own.
        static let externalDataFile = Incompatible(rawValue: 1 << 2)
        /// The compression type is not zlib.
        static let compressionType = Incompatible(rawValue: 1 << 3)
        /// L2 entries have 16 bytes and describe 32 subclusters.
        static let extendedL2 = Incompatible(rawValue: 1 << 4)

        /// All of them.
        static let known: Incompatible = [.dirty, .corrupt, .externalDataFile, .compressionType, .extendedL2]
    }

    /// The sets that a feature bit can belong to, by their number in the feature name table.
    enum FeatureSet: UInt8, Sendable {
        case incompatible = 0
        case compatible = 1
        case autoclear = 2
    }

    /// The names that an image gives to feature bits, and those of the specification.
    struct FeatureNames: Sendable {
        private var recorded: [Int: String] = [:]

        /// The names of the specification, as a new image records them too.
        static let standard: [(set: FeatureSet, bit: UInt8, name: String)] = [
            (.incompatible, 0, "dirty"), (.incompatible, 1, "corrupt"), (.incompatible, 2, "external data file"),
            (.incompatible, 3, "compression type"), (.incompatible, 4, "extended L2 entries"),
            (.compatible, 0, "lazy refcounts"),
            (.autoclear, 0, "bitmaps"), (.autoclear, 1, "raw external data"),
        ]

        /// Records the name of one bit; the first name of a bit stays.
        mutating func add(_ name: String, set: UInt8, bit: UInt8) {
            guard bit < 64, !name.isEmpty else { return }
            let key = Int(set) * 64 + Int(bit)
            if recorded[key] == nil { recorded[key] = name }
        }

        /// The name of a bit: the specification's, else the image's own, else its number.
        func name(_ set: FeatureSet, bit: UInt8) -> String {
            if let known = Self.standard.first(where: { $0.set == set && $0.bit == bit }) { return known.name }
            if let name = recorded[Int(set.rawValue) * 64 + Int(bit)] { return "\(name) (bit \(bit))" }
            return "bit \(bit)"
        }

        /// The names of all bits that are set in `bits`, lowest first.
        func names(_ set: FeatureSet, in bits: UInt64) -> [String] {
            (UInt8(0)..<64).filter { bits >> UInt64($0) & 1 == 1 }.map { name(set, bit: $0) }
        }
    }
}

extension QCOW2.Header {
    /// Whether the image needs a feature that platter does not know.
    var hasUnknownFeatures: Bool { incompatible & ~QCOW2.Incompatible.known.rawValue != 0 }

    /// Refuses what must be understood and is not, by the names that the image gives it; then what the known features
    /// demand of other fields. Throws `.unsupported` and `.malformed`.
    func checkFeatures(names: QCOW2.FeatureNames) throws(ImageError) {
        let unknown = incompatible & ~QCOW2.Incompatible.known.rawValue
        guard unknown == 0 else {
            throw ImageError(
                .unsupported, "the image needs features that platter does not know",
                detail: names.names(.incompatible, in: unknown).joined(separator: ", "))
        }
        // The bit says that the type is not zlib, and the type must agree: a program that knows only one of the two
        // fields would otherwise read other bytes.
        guard has(.compressionType) == (compression != .zlib) else {
            throw ImageError(.malformed, "the compression type and its feature bit contradict each other")
        }
        guard !has(.extendedL2) || clusterBits >= 14 else {
            throw ImageError(.malformed, "extended L2 entries need clusters of at least 16 KiB")
        }
    }
}
