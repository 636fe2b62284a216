internal import Bytes
@testable internal import Disk
internal import Formats
internal import Storage
internal import Testing

/// When housekeeping commits and when it rests.
@Suite struct IdlenessTests {
    private let start = ContinuousClock.now

    private func at(_ milliseconds: Int) -> ContinuousClock.Instant { start + .milliseconds(milliseconds) }

    @Test func aQuietDiskIsCommittedAfterAShortWhile() {
        var idle = Idleness()
        #expect(idle.due(at: at(0), changes: 1, durable: 0) == .nothing)
        #expect(idle.due(at: at(49), changes: 1, durable: 0) == .nothing)
        #expect(idle.due(at: at(50), changes: 1, durable: 0) == .commit)
        #expect(idle.due(at: at(51), changes: 1, durable: 1) == .nothing)
    }

    @Test func aBusyDiskIsCommittedAfterFiveSeconds() {
        var idle = Idleness()
        var commits: [Int] = []
        for time in stride(from: 0, through: 11_000, by: 25) {
            guard idle.due(at: at(time), changes: UInt64(time + 1), durable: 0) == .commit else { continue }
            commits.append(time)
            idle.dirtySince = nil
        }
        #expect(commits == [5000, 10_025])
    }

    @Test func aCommitThatFoundNoRoomIsNotRepeatedAtOnce() {
        var idle = Idleness()
        #expect(idle.due(at: at(0), changes: 1, durable: 0) == .nothing)
        #expect(idle.due(at: at(60), changes: 1, durable: 0) == .commit)
        idle.failed(at: at(60))
        #expect(idle.due(at: at(1000), changes: 1, durable: 0) == .nothing)
        #expect(idle.due(at: at(1110), changes: 1, durable: 0) == .commit)
    }

    @Test func bulkIsWhatComesBetweenTwoLooks() {
        var idle = Idleness()
        let few = Idleness.bulk - 1
        let looks = [few, 2 * few, 3 * few + 1, 3 * few + 1].map { idle.isBulk(written: $0) }
        #expect(looks == [false, false, true, false])
    }

    @Test func droppedRunsAreTakenInPiecesOnceTheirLeasesEnded() {
        let runs = (0..<10 as Range<UInt64>).map { HostRun(file: .image, offset: HostOffset($0 << 20), length: 512) }
        var space = DroppedSpace()
        space.waiting = [.init(epoch: 3, runs: Array(runs[..<6])), .init(epoch: 5, runs: Array(runs[6...]))]
        var taken = space.take(atMost: 4) { $0 < 3 }
        #expect(taken.isEmpty)
        taken = space.take(atMost: 4) { $0 < 5 }
        #expect(taken.count == 4)
        taken += space.take(atMost: 4) { $0 < 5 }
        #expect(taken.count == 6 && space.waiting.map(\.epoch) == [5])
        taken += space.take(atMost: .max) { _ in true }
        #expect(taken.map(\.offset).sorted() == runs.map(\.offset) && space.waiting.isEmpty)
    }

    @Test func aDiskRestsOnceInEveryQuietTimeAndNeverUnwritten() {
        var idle = Idleness()
        #expect(idle.due(at: at(60_000), changes: 0, durable: 0) == .nothing)
        #expect(idle.due(at: at(61_000), changes: 4, durable: 4) == .nothing)
        #expect(idle.due(at: at(90_999), changes: 4, durable: 4) == .nothing)
        #expect(idle.due(at: at(91_000), changes: 4, durable: 4) == .rest)
        #expect(idle.due(at: at(200_000), changes: 4, durable: 4) == .nothing)
        #expect(idle.due(at: at(201_000), changes: 5, durable: 5) == .nothing)
        #expect(idle.due(at: at(231_000), changes: 5, durable: 5) == .rest)
    }
}
