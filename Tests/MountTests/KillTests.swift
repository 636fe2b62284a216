internal import CLinux
internal import Glibc
internal import Synchronization
internal import TestSupport
internal import Testing

/// The server is killed while it is written to; whatever was made durable has to be there afterwards.
@Suite(
    .serialized, .enabled(if: Fuse.isUsable && Fuse.isRoot, "needs /dev/fuse and root"),
    .enabled(if: Tool.has("qemu-img"), "needs qemu-img"), .timeLimit(.minutes(60)))
struct KillTests {
    private let work: TemporaryDirectory
    /// `make torture` sets PLATTER_KILL_ROUNDS.
    static let rounds = getenv("PLATTER_KILL_ROUNDS").flatMap { Int(String(cString: $0)) } ?? 3

    init() throws { work = try TemporaryDirectory("kill") }

    /// What one writer knows of its part of the disk: blocks of 4 KiB, each with the numbers that it may hold.
    private struct Ledger: Sendable {
        static let block = 4096
        /// For each block the number that is durable and all that were written later, in order; 0 stands for zeros.
        var numbers: [Int: [UInt64]] = [:]
        var next: UInt64 = 1

        /// 4 KiB that name the block, the number and the sector in each sector.
        static func content(_ block: Int, _ number: UInt64) -> [UInt8] {
            guard number != 0 else { return [UInt8](repeating: 0, count: Self.block) }
            var words = [UInt64](repeating: 0, count: Self.block / 8)
            for index in words.indices {
                words[index] = UInt64(block) << 40 ^ number << 8 ^ UInt64(index / 64) &+ UInt64(index) &* 0x9E37_79B9
            }
            return words.withUnsafeBytes { Array($0) }
        }

        private static func areSame(_ left: [UInt8], _ right: [UInt8], _ part: Range<Int>) -> Bool {
            left.withUnsafeBytes { left in
                right.withUnsafeBytes { right in
                    guard let left = left.baseAddress, let right = right.baseAddress else { return false }
                    return memcmp(left + part.lowerBound, right + part.lowerBound, part.count) == 0
                }
            }
        }

        mutating func wrote(_ blocks: Range<Int>, _ number: UInt64) {
            for block in blocks { numbers[block, default: [0]].append(number) }
        }

        /// Everything written so far is durable.
        mutating func synchronised() {
            for (block, list) in numbers { numbers[block] = list.suffix(1) }
        }

        /// Throws unless every sector of every block holds what it may, and takes over what it holds.
        mutating func verify(_ file: OpenedFile) throws {
            for (block, allowed) in numbers {
                let seen = try file.read(Self.block, at: block * Self.block)
                var held: Set<UInt64> = []
                // From the last on: it is what most blocks hold, and making content takes its time.
                var open = Array(0..<8)
                for number in allowed.reversed() where !open.isEmpty {
                    let content = Self.content(block, number)
                    open.removeAll { sector in
                        let isSame = Self.areSame(seen, content, (sector * 512)..<(sector * 512 + 512))
                        if isSame { held.insert(number) }
                        return isSame
                    }
                }
                if let sector = open.first {
                    throw HostFailure(
                        "block \(block), sector \(sector): none of \(allowed): \(seen[(sector * 512)...].prefix(16))",
                        errno: 0)
                }
                numbers[block] = Array(held)
            }
        }
    }

    /// Writes, punches and synchronises until the server is gone. A change counts as begun before it is made.
    private static func work(_ path: String, _ writer: Int, _ ledger: inout Ledger, seed: UInt64) {
        let isDirect = writer % 2 == 1
        guard let file = try? OpenedFile(path, O_RDWR | (isDirect ? Seen.direct : 0)) else { return }
        var random = SeededRandom(seed: seed)
        while true {
            // Groups of 64 blocks, of which every fourth belongs to this writer.
            let group = Int(random.next() % 32) * 4 + writer
            let first = group * 64 + Int(random.next() % 64)
            let count = min(1 + Int(random.next() % (random.next() % 4 == 0 ? 64 : 4)), (group + 1) * 64 - first)
            let number = random.next() % 8 == 0 ? 0 : ledger.next
            ledger.next += 1
            ledger.wrote(first..<(first + count), number)
            guard change(file, first..<(first + count), number) else { return }
            if random.next() % 12 == 0 {
                guard fsync(file.descriptor) == 0 else { return }
                ledger.synchronised()
            }
        }
    }

    private static func change(_ file: OpenedFile, _ blocks: Range<Int>, _ number: UInt64) -> Bool {
        let (offset, count) = (blocks.lowerBound * Ledger.block, blocks.count * Ledger.block)
        guard number != 0 else { return clinux_fallocate(file.descriptor, 3, Int64(offset), Int64(count)) == 0 }
        guard let space = try? Seen.aligned(blocks.flatMap { Ledger.content($0, number) }) else { return false }
        defer { free(space) }
        return pwrite(file.descriptor, space, count, off_t(offset)) == count
    }

    @Test(arguments: WritableFormat.all)
    func whatWasSynchronisedSurvivesAKill(format: WritableFormat) throws {
        let image = try format.make(32 << 20, in: work)
        let ledgers = (0..<4).map { _ in Box(Ledger()) }
        var random = SeededRandom(seed: UInt64(getpid()))
        for round in 0..<Self.rounds {
            do {
                let served = try Served.writable(image)
                let path = served.path(format.shown())
                let (pid, delay) = (served.process.pid, UInt32(20_000 + random.next() % 400_000))
                let seed = random.next()
                try concurrently(5) { index in
                    guard index < 4 else {
                        usleep(delay)
                        kill(pid, SIGKILL)
                        return
                    }
                    var ledger = ledgers[index].value.withLock { $0 }
                    Self.work(path, index, &ledger, seed: seed &+ UInt64(index))
                    ledgers[index].value.withLock { $0 = ledger }
                }
                #expect(served.ends(within: 10))
            }
            // Read as it is, then opened for writing by the next round.
            let served = try Served(image)
            let file = try OpenedFile(served.path(format.shown()), O_RDONLY)
            for (index, ledger) in ledgers.enumerated() {
                do {
                    try ledger.value.withLock { try $0.verify(file) }
                } catch { throw HostFailure("round \(round), writer \(index): \(error)", errno: 0) }
            }
            file.close()
            served.end()
            try format.check(image, isFinal: false)
        }
    }

    private final class Box: Sendable {
        let value: Mutex<Ledger>
        init(_ value: Ledger) { self.value = Mutex(value) }
    }

    @Test(
        .enabled(if: Tool.has("losetup", "mount", "mkfs.ext4", "e2fsck"), "needs losetup, mount and e2fsprogs"),
        arguments: WritableFormat.all)
    func aFilesystemSurvivesAKill(format: WritableFormat) throws {
        let image = try format.make(96 << 20, in: work)
        var durable: [String: UInt64] = [:]
        var random = SeededRandom(seed: UInt64(getpid()) &+ 1)
        for round in 0..<Self.rounds {
            let served = try Served.writable(image)
            do {
                let loop = try WritableLoop(served.path(format.shown()), directIO: round % 2 == 0)
                if round == 0 {
                    try runSuccessfully("mkfs.ext4", "-q", "-F", loop.device)
                } else {
                    try expectFiles(durable, on: loop.device, isWritable: true)
                }
                // These are replaced now.
                durable = durable.filter { !$0.key.hasPrefix("r\(round % 4)-") }
                let mounted = try WritableMount(loop.device, in: work)
                let (pid, delay) = (served.process.pid, UInt32(100_000 + random.next() % 700_000))
                let directory = mounted.path
                let written = Box2()
                try concurrently(2) { index in
                    guard index == 0 else {
                        usleep(delay)
                        kill(pid, SIGKILL)
                        return
                    }
                    Self.fill(directory, round, written)
                }
                durable.merge(written.files.withLock { $0 }) { $1 }
            }
            #expect(served.ends(within: 10))
            served.end()
        }
        let served = try Served.writable(image)
        do {
            let loop = try WritableLoop(served.path(format.shown()), directIO: false)
            try expectFiles(durable, on: loop.device, isWritable: true)
            try loop.detach()
        }
        #expect(try served.unmount() == 0)
        try format.check(image, isFinal: false)
    }

    private final class Box2: Sendable {
        let files = Mutex<[String: UInt64]>([:])
    }

    /// Writes files and synchronises each, until that fails; counts those that are safe.
    private static func fill(_ directory: String, _ round: Int, _ written: Box2) {
        for index in 0..<10_000 {
            let name = "r\(round % 4)-\(index % 40)"
            let seed = UInt64(round * 10_000 + index + 1)
            // While it is replaced it may be either.
            _ = written.files.withLock { $0.removeValue(forKey: name) }
            let descriptor = open("\(directory)/\(name)", O_WRONLY | O_CREAT | O_TRUNC, 0o644)
            guard descriptor >= 0 else { return }
            defer { close(descriptor) }
            let bytes = Content.random(64 << 10, seed: seed)
            let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, bytes.count) }
            guard count == bytes.count, fsync(descriptor) == 0 else { return }
            written.files.withLock { $0[name] = seed }
        }
    }

    /// Lets e2fsck replay the journal, and expects nothing else to be wrong and every file of `files` to be whole.
    private func expectFiles(_ files: [String: UInt64], on device: String, isWritable: Bool) throws {
        // The device has the error state of a journal that ended suddenly: 1 is "corrected", and only the journal may be.
        let replay = try run("e2fsck", "-p", device, timeout: 60)
        #expect(replay.status <= 1, "\(replay)")
        let check = try run("e2fsck", "-fn", device, timeout: 60)
        #expect(check.succeeded, "\(check)")
        let mounted = try WritableMount(device, in: work, options: "ro")
        for (name, seed) in files {
            let bytes = try HostFiles.read("\(mounted.path)/\(name)")
            #expect(bytes == Content.random(64 << 10, seed: seed), "\(name)")
        }
        try mounted.unmount()
    }
}
