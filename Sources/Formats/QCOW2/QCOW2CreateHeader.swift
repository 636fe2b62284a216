internal import Bytes
internal import Storage

extension QCOW2 {
    /// The first bytes of a new image: header, extensions and the backing file's name (QEMU, docs/interop/qcow2,
    /// "Header" and "Header extensions").
    struct NewHeader {
        private let settings: CreateSettings
        private let layout: NewLayout
        private var result: [UInt8] = []

        /// The header of an image of these settings and this layout.
        init(_ settings: CreateSettings, _ layout: NewLayout) {
            self.settings = settings
            self.layout = layout
        }

        /// The bytes. Throws `.outOfRange` where the names do not fit the first cluster.
        consuming func bytes() throws(ImageError) -> [UInt8] {
            putFixedPart()
            if let backing = settings.backing { putExtension(0xE279_2ACA, Array(backing.format.utf8)) }
            if let name = settings.dataFile { putExtension(0x4441_5441, Array(name.utf8)) }
            let name = Array((settings.backing?.name ?? "").utf8)
            // The feature names help only whoever does not know a feature: where there is no room they are left out.
            let names = settings.version == 3 ? Self.featureNames : []
            if !names.isEmpty, UInt64(result.count + 8 + names.count + 8 + name.count) <= settings.clusterSize {
                putExtension(0x6803_F857, names)
            }
            result += [UInt8](repeating: 0, count: 8)
            guard UInt64(result.count + name.count) <= settings.clusterSize else {
                throw ImageError(
                    .outOfRange, "the names of the parent and the data file do not fit the first cluster",
                    detail: settings.clusterSize.counted("byte"))
            }
            if !name.isEmpty {
                store(UInt64(result.count), at: 8)
                store(UInt32(name.count), at: 16)
                result += name
            }
            return result
        }

        private mutating func putFixedPart() {
            result = [UInt8](repeating: 0, count: settings.version == 3 ? 112 : 72)
            store(QCOW2.magic, at: 0)
            store(settings.version, at: 4)
            store(UInt32(settings.clusterBits), at: 20)
            store(settings.virtualSize, at: 24)
            store(UInt32(layout.l1Size), at: 36)
            store(layout.l1Offset, at: 40)
            store(layout.tableOffset, at: 48)
            store(UInt32(layout.tableClusters), at: 56)
            guard settings.version == 3 else { return }
            var needed: Incompatible = []
            if settings.dataFile != nil { needed.insert(.externalDataFile) }
            if settings.compression != .zlib { needed.insert(.compressionType) }
            if settings.hasSubclusters { needed.insert(.extendedL2) }
            store(needed.rawValue, at: 72)
            store(UInt64(settings.hasLazyRefcounts ? 1 : 0), at: 80)
            store(UInt64(settings.isDataFileRaw ? 2 : 0), at: 88)
            store(settings.refcountOrder, at: 96)
            store(UInt32(112), at: 100)
            result[104] = settings.compression.rawValue
        }

        /// Records of 48 bytes: the set, the bit, and the name padded with zeros.
        private static var featureNames: [UInt8] {
            var bytes: [UInt8] = []
            for feature in FeatureNames.standard {
                let name = Array(feature.name.utf8.prefix(46))
                bytes += [feature.set.rawValue, feature.bit] + name
                bytes += [UInt8](repeating: 0, count: 46 - name.count)
            }
            return bytes
        }

        /// Adds an extension: its type, its length, and its data padded to 8 bytes.
        private mutating func putExtension(_ kind: UInt32, _ data: [UInt8]) {
            let start = result.count
            result += [UInt8](repeating: 0, count: 8)
            store(kind, at: start)
            store(UInt32(data.count), at: start + 4)
            result += data
            result += [UInt8](repeating: 0, count: (8 - data.count % 8) % 8)
        }

        private mutating func store<Value: FixedWidthInteger & BitwiseCopyable>(_ value: Value, at offset: Int) {
            result.withUnsafeMutableBytes { $0.storeBytes(of: value.bigEndian, toByteOffset: offset, as: Value.self) }
        }
    }
}
