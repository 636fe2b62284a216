internal import Bytes
package import Storage

extension QCOW2 {
    package static var createOptions: [CreateOption] {
        [
            CreateOption("compat", "0.10|1.1", "the version: 0.10 (v2) or 1.1 (v3, the default)"),
            CreateOption("cluster_size", "512…2M", "the unit of allocation, a power of two; 64K by default"),
            CreateOption(
                "preallocation", "off|metadata|falloc|full",
                "what exists from the start: nothing, the tables, or the space as well; off by default"),
            CreateOption("extended_l2", "on|off", "32 subclusters for each cluster (clusters of 16K and more)"),
            CreateOption("compression_type", "zlib|zstd", "what compressed clusters are compressed with"),
            CreateOption("lazy_refcounts", "on|off", "postpone refcounts; after a crash they are rebuilt"),
            CreateOption("refcount_bits", "1|2|4|8|16|32|64", "the width of a refcount; 16 by default"),
            CreateOption("data_file", "NAME", "keep the disk's bytes in a file of their own"),
            CreateOption("data_file_raw", "on|off", "keep the data file readable as a raw disk"),
        ]
    }

    /// The header goes last, and everything that it names is durable by then: a file without a header is no image, and
    /// one with a header is a whole one.
    package static func create(_ request: CreateRequest) throws(ImageError) {
        let settings = try CreateSettings(request)
        let layout = try NewLayout(settings)
        let head = try NewHeader(settings, layout).bytes()
        var dataFile: (any Storage)?
        if let name = settings.dataFile { dataFile = try request.makeFile(name) }
        let storage = request.storage
        try storage.resize(to: layout.fileSize)
        try allocateGuestClusters(settings, layout, dataFile ?? storage, isSeparate: dataFile != nil)
        try layout.writeTables(to: storage)
        try dataFile?.flush()
        try storage.flush()
        try storage.write(at: HostOffset(0), head)
        try storage.flush()
    }

    /// Space for the disk's clusters. What is not asked for stays a hole of the host's file.
    private static func allocateGuestClusters(
        _ settings: CreateSettings, _ layout: NewLayout, _ file: any Storage, isSeparate: Bool
    ) throws(ImageError) {
        let start = isSeparate ? 0 : layout.dataOffset
        let count = isSeparate ? settings.virtualSize : layout.fileSize - start
        if isSeparate { try file.resize(to: settings.virtualSize) }
        switch settings.preallocation {
        case .off, .metadata: break
        case .falloc: try HostSpace.allocate(file, at: start, count: count)
        case .full: try HostSpace.writeZeros(file, at: start, count: count)
        }
    }
}

extension QCOW2 {
    /// What a new image shall be, from the request's options, each checked on its own and with the others.
    struct CreateSettings: Sendable {
        /// How much of an image exists from the start.
        enum Preallocation: String, CaseIterable, Sendable {
            case off, metadata, falloc, full
        }

        private enum Compatibility: String, CaseIterable {
            case old = "0.10"
            case new = "1.1"
            case v2, v3
        }

        private enum CompressionName: String, CaseIterable {
            case zlib, zstd
        }

        /// 2 or 3.
        let version: UInt32
        /// The size of the disk in bytes: that of the request, rounded up to whole sectors.
        let virtualSize: UInt64
        /// The cluster size is 2 to this power.
        let clusterBits: UInt64
        /// A refcount has 2 to this power bits.
        let refcountOrder: UInt32
        /// How much exists from the start.
        let preallocation: Preallocation
        /// Whether L2 entries have subclusters.
        let hasSubclusters: Bool
        /// Whether refcounts may be late.
        let hasLazyRefcounts: Bool
        /// The compression type by its number.
        let compression: Header.Compression
        /// The name of the data file; nil for none.
        let dataFile: String?
        /// Whether the data file must be a raw disk at all times.
        let isDataFileRaw: Bool
        /// The backing file's name as it will be recorded, and its format's.
        let backing: (name: String, format: String)?

        /// The bytes of a cluster.
        var clusterSize: UInt64 { 1 << clusterBits }

        /// Reads the options of `request`. Throws `.outOfRange` and `.unsupported`.
        init(_ request: CreateRequest) throws(ImageError) {
            let values = OptionValues(request.options)
            switch try values.choice("compat", Compatibility.self) ?? .new {
            case .old, .v2: version = 2
            case .new, .v3: version = 3
            }
            guard let size = request.virtualSize.roundedUp(toPowerOfTwo: 512), size <= UInt64(Int64.max) else {
                throw ImageError(
                    .outOfRange, "the disk is impossibly large", detail: request.virtualSize.counted("byte"))
            }
            virtualSize = size
            let cluster = try values.bytes("cluster_size") ?? 65_536
            guard cluster.isPowerOfTwo, (512...2 << 20).contains(cluster) else {
                throw OptionValues.badValue("cluster_size", "\(cluster)", "a power of two from 512 to 2M")
            }
            clusterBits = UInt64(cluster.trailingZeroBitCount)
            let width = try values.number("refcount_bits") ?? 16
            guard width.isPowerOfTwo, width <= 64 else {
                throw OptionValues.badValue("refcount_bits", "\(width)", "1, 2, 4, 8, 16, 32 or 64")
            }
            refcountOrder = UInt32(width.trailingZeroBitCount)
            hasSubclusters = try values.flag("extended_l2") ?? false
            hasLazyRefcounts = try values.flag("lazy_refcounts") ?? false
            compression = try values.choice("compression_type", CompressionName.self) == .zstd ? .zstd : .zlib
            dataFile = values["data_file"]
            isDataFileRaw = try values.flag("data_file_raw") ?? false
            let wanted = try values.choice("preallocation", Preallocation.self) ?? .off
            // A raw data file can be read without the image, so every cluster of it must be the disk's from the start.
            preallocation = isDataFileRaw && wanted == .off ? .metadata : wanted
            backing = try request.parent.map(Self.backing)
            try checkVersion()
            try checkDataFile()
            try checkSubclusters()
        }

        /// How the parent is recorded: a name that holds a colon would be taken for a protocol, so it becomes a path.
        private static func backing(
            _ parent: CreateRequest.Parent
        ) throws(ImageError) -> (name: String, format: String) {
            let name = RecordedName.isProtocol(parent.recordedPath) ? "./" + parent.recordedPath : parent.recordedPath
            guard (1...1023).contains(name.utf8.count) else {
                throw ImageError(.outOfRange, "the parent's path is empty or longer than 1023 bytes", detail: name)
            }
            let format = Registry.format(named: parent.shape.formatName)?.recordedName
            return (name, format ?? parent.shape.formatName)
        }

        private func checkVersion() throws(ImageError) {
            guard version == 2 else { return }
            let used: [(isUsed: Bool, option: String)] = [
                (hasSubclusters, "extended_l2"), (hasLazyRefcounts, "lazy_refcounts"),
                (compression != .zlib, "compression_type"), (refcountOrder != 4, "refcount_bits"),
                (dataFile != nil, "data_file"),
            ]
            guard let first = used.first(where: \.isUsed) else { return }
            throw ImageError(.unsupported, "the option needs version 3 (compat=1.1)", detail: first.option)
        }

        private func checkDataFile() throws(ImageError) {
            guard let dataFile else {
                guard !isDataFileRaw else {
                    throw ImageError(.unsupported, "data_file_raw needs a data_file")
                }
                return
            }
            guard !dataFile.isEmpty, dataFile.utf8.count <= 1023, !RecordedName.isProtocol(dataFile) else {
                throw OptionValues.badValue("data_file", dataFile, "a file name without a protocol in front")
            }
            guard !isDataFileRaw || backing == nil else {
                throw ImageError(.unsupported, "a disk with a raw data file cannot have a parent")
            }
        }

        private func checkSubclusters() throws(ImageError) {
            guard !hasSubclusters || clusterBits >= 14 else {
                throw ImageError(.outOfRange, "extended_l2 needs clusters of at least 16K")
            }
            guard preallocation == .off || backing == nil || hasSubclusters else {
                throw ImageError(
                    .unsupported, "preallocated clusters would hide the parent; only with extended_l2=on they do not")
            }
        }
    }
}
