/// Everything that a command line, a line of fstab or a mount helper can say about a mount.
struct MountSettings: HasImageSettings {
    /// Where log lines go.
    enum LogTarget: Sendable, Equatable {
        /// Standard error in the foreground, syslog behind it.
        case automatic
        case standardError
        case syslog
        case file(String)
    }

    /// Where writes go instead of into the source.
    enum Overlay: Sendable, Equatable {
        /// A qcow2 image at a path, made where there is none.
        case file(String)
        /// A file without a name, gone at the end.
        case temporary
    }

    var image = ImageSettings()

    // How the process runs.
    var isForeground = false
    var isDebug = false
    var pidFile: String?
    var readyDescriptor: Int32?
    var log = LogTarget.automatic
    var threads: Int?

    // What is shown.
    var name: String?
    var showsPartitions = false
    var showsSnapshots = false
    var showsLayers = false
    var followsLinks = false

    // Attributes and times.
    var uid: UInt32?
    var gid: UInt32?
    var umask: UInt32?
    var fileMask: UInt32?
    var directoryMask: UInt32?
    var attributeTimeout: Double?
    var entryTimeout: Double?

    // The mount itself.
    /// nil: try with `allow_other`, and without where that is refused.
    var allowOther: Bool?
    var allowRoot = false
    var allowsNonEmpty = false
    /// `rw` was given: not a wish to write, but worth a line in the log.
    var saysReadWrite = false
    /// `ro` was given.
    var saysReadOnly = false
    /// Flags for the kernel, as they were given: "nosuid", "noexec", …
    var kernelFlags: [String] = []
    /// `write` was given.
    var wantsWriting = false
    /// `overlay=` was given.
    var overlay: Overlay?
    /// A data file that the image names may be written.
    var writesDataFile = false
    /// `truncate=discard` was given.
    var truncationDiscards = false

    // What a mount helper (mount.fuse.platter) adds.
    var isHelper = false
    var isSloppy = false
    var isFake = false
}

extension OptionTable where Settings == MountSettings {
    /// The options of `platter mount`, of fstab and of mount helpers.
    static let mount = OptionTable(
        command: "mount",
        options: writing + process + exposure + Option.partitionOptions + Option.imageOptions + attributes + kernel
            + tolerated,
        toleratedPrefixes: ["x-", "X-"],
        isSloppy: { $0.isSloppy })

    private static let process: [Option<MountSettings>] = [
        .toggle(["-f", "--foreground"], help: "stay in the foreground; log to standard error") {
            $0.isForeground = true
        },
        .toggle(["-d", "--debug"], keys: ["debug"], help: "log every request; stay in the foreground") {
            ($0.isForeground, $0.isDebug) = (true, true)
        },
        Option(["--pid-file"], value: "FILE", help: "write the server's process id to FILE once mounted") {
            settings, value, name throws(Failure) in settings.pidFile = try Values.text(value, name)
        },
        Option(["--ready-fd"], value: "N", help: "write a line to descriptor N and close it once mounted") {
            settings, value, name throws(Failure) in
            settings.readyDescriptor = Int32(try Values.integer(value, name, in: 0...1_000_000))
        },
        Option(["--log"], keys: ["log"], value: "WHERE", help: "syslog, stderr, or the path of a file to append to") {
            settings, value, name throws(Failure) in settings.log = try logTarget(value, name)
        },
        Option(["--threads"], keys: ["threads"], value: "N", help: "how many threads serve (default: by the machine)") {
            settings, value, name throws(Failure) in settings.threads = try Values.integer(value, name, in: 1...256)
        },
    ]

    private static let exposure: [Option<MountSettings>] = [
        Option(keys: ["name"], value: "NAME", help: "the name of the raw file (default: the image's with .raw)") {
            settings, value, name throws(Failure) in settings.name = try Values.fileName(value, name)
        },
        .toggle(keys: ["partitions"], help: "show every partition as a file in IMAGE.parts") {
            $0.showsPartitions = true
        },
        .toggle(keys: ["snapshots"], help: "show every internal snapshot as a file in IMAGE.snaps") {
            $0.showsSnapshots = true
        },
        .toggle(keys: ["layers"], help: "show every layer of the chain as a file in IMAGE.layers") {
            $0.showsLayers = true
        },
        .toggle(keys: ["follow-links"], help: "follow links out of SOURCE that lead below --allow-parents") {
            $0.followsLinks = true
        },
    ]

    private static let attributes: [Option<MountSettings>] = [
        Option(keys: ["uid"], value: "N", help: "the owner of all files (default: the image's)") {
            settings, value, name throws(Failure) in settings.uid = try Values.identifier(value, name)
        },
        Option(keys: ["gid"], value: "N", help: "the group of all files (default: the image's)") {
            settings, value, name throws(Failure) in settings.gid = try Values.identifier(value, name)
        },
        Option(keys: ["umask"], value: "BITS", help: "permissions to take away, in octal") {
            settings, value, name throws(Failure) in settings.umask = try Values.mask(value, name)
        },
        Option(keys: ["fmask"], value: "BITS", help: "the same for files only") {
            settings, value, name throws(Failure) in settings.fileMask = try Values.mask(value, name)
        },
        Option(keys: ["dmask"], value: "BITS", help: "the same for directories only") {
            settings, value, name throws(Failure) in settings.directoryMask = try Values.mask(value, name)
        },
        Option(keys: ["attr_timeout"], value: "S", help: "how long the kernel may keep attributes, in seconds") {
            settings, value, name throws(Failure) in settings.attributeTimeout = try Values.seconds(value, name)
        },
        Option(keys: ["entry_timeout"], value: "S", help: "how long the kernel may keep names, in seconds") {
            settings, value, name throws(Failure) in settings.entryTimeout = try Values.seconds(value, name)
        },
    ]

    private static let kernel: [Option<MountSettings>] = [
        .toggle(keys: ["allow_other"], help: "all users may read (default: where the system permits it)") {
            $0.allowOther = true
        },
        .toggle(keys: ["noallow_other"], help: "only the user who mounts may read") { $0.allowOther = false },
        .toggle(keys: ["allow_root"], help: nil) { $0.allowRoot = true },
        .toggle(keys: ["nonempty"], help: "mount over a directory or file that is not empty") {
            $0.allowsNonEmpty = true
        },
        .toggle(["-r", "--read-only"], keys: ["ro"], help: "read only, as it is without -w and --overlay") {
            $0.saysReadOnly = true
        },
        .toggle(keys: ["rw"], help: nil) { $0.saysReadWrite = true },
        .toggle(keys: ["remount"], help: nil) { _ throws(Failure) in
            throw Failure(.usage, "remount: a platter mount cannot be remounted; unmount it and mount it again")
        },
    ]

    private static let writing: [Option<MountSettings>] = [
        .toggle(["-w", "--write"], keys: ["write"], help: "write into the image") { $0.wantsWriting = true },
        Option(
            ["--overlay"], keys: ["overlay"], value: "FILE",
            help: "leave the image as it is; write to FILE (qcow2), or with 'tmp' forget what was written"
        ) { settings, value, name throws(Failure) in
            settings.overlay = value == "tmp" ? .temporary : .file(try Values.text(value, name))
        },
        .shareOption,
        .toggle(keys: ["write-data-file"], help: "with -w, write also the data file that a qcow2 image names") {
            $0.writesDataFile = true
        },
        Option(
            keys: ["truncate"], value: "WHAT",
            help: "what opening a disk with O_TRUNC does: refuse (default), or discard all of it"
        ) { settings, value, name throws(Failure) in
            guard value == "refuse" || value == "discard" else {
                throw .usage("'\(name)' is one of refuse, discard, not '\(value)'")
            }
            settings.truncationDiscards = value == "discard"
        },
    ]

    /// What mount(8), systemd and users of libfuse say and what changes nothing here.
    private static let tolerated: [Option<MountSettings>] =
        ["dev", "nodev", "suid", "nosuid", "exec", "noexec", "atime", "noatime", "sync", "async", "dirsync"].map {
            flag in
            .toggle(keys: [flag], help: nil) { $0.kernelFlags.append(flag) }
        }
        + Option.tolerated(
            "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "relatime",
            "norelatime", "strictatime", "nostrictatime", "diratime", "nodiratime", "lazytime", "nolazytime", "mand",
            "nomand", "silent", "loud", "default_permissions", "auto_unmount", "kernel_cache", "auto_cache",
            "noauto_cache",
            "direct_io", "big_writes", "large_read", "intr", "nointr", "splice_read", "splice_write", "splice_move",
            "no_splice_read", "no_splice_write", "no_splice_move", "clone_fd")
        + Option.tolerated(
            "fsname", "subtype", "comment", "max_read", "max_write", "max_readahead", "max_background",
            "congestion_threshold", "negative_timeout", "ac_attr_timeout", "blksize", "max_idle_threads", "max_threads",
            value: "")
        + [.toggle(["-s"], help: nil) { $0.threads = 1 }]

    private static func logTarget(_ value: String, _ name: String) throws(Failure) -> MountSettings.LogTarget {
        switch value {
        case "syslog", "journal": .syslog
        case "stderr": .standardError
        default: .file(try Values.text(value, name))
        }
    }
}

extension MountSettings {
    /// Whether anything that is served can be written.
    var isWritable: Bool { wantsWriting || overlay != nil }

    /// Refuses what contradicts itself. Throws usage failures.
    func validate() throws(Failure) {
        if saysReadOnly, isWritable {
            let word = wantsWriting ? "write" : "overlay"
            throw .usage("'ro' and '\(word)' contradict each other; say one of them", command: "mount")
        }
        if image.forcesShare, isWritable {
            let word = wantsWriting ? "write" : "overlay"
            throw .usage(
                "'force-share' looks at an image in use, and '\(word)' needs it to stay as it is; say one of them",
                command: "mount")
        }
        if image.forcesParent, isWritable {
            throw .usage(
                "over a parent that does not fit an image is only read; leave '\(wantsWriting ? "write" : "overlay")' out"
                    + ", or 'force-parent'", command: "mount")
        }
        if wantsWriting, overlay != nil {
            throw .usage(
                "'write' changes the image and 'overlay' leaves it as it is; say one of them", command: "mount")
        }
    }
}
