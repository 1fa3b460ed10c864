import RaftCore
import RaftStorage
import Testing

@testable import RaftHost

/// What passes a batch that waits for room, and what waits behind it.
@Suite("A log without room, sorted")
struct BlockageTests {
    private func entries(_ group: LogGroup, _ index: Int64 = 1) -> LogWrite {
        LogWrite(
            group: group,
            entries: [
                LogEntry(position: LogPosition(term: Term(1), index: LogIndex(index)), kind: .noOp, payload: Bytes())
            ])
    }

    private func state(_ group: LogGroup, _ term: Int64, vote: PeerID? = nil) -> LogWrite {
        LogWrite(group: group, hardState: HardState(term: Term(term), vote: vote))
    }

    private func batch(_ writes: LogWrite...) -> LogBatch {
        var batch = LogBatch()
        for write in writes { batch.append(write) }
        return batch
    }

    private func groups(_ batch: LogBatch) -> [LogGroup] { batch.writes.map(\.group) }

    @Test("What comes later of a group waits behind its entries, in order; the rest passes") func order() {
        var refused = batch(entries(1), state(2, 1), state(1, 2))
        var blockage = Blockage(behind: refused)
        let first = blockage.part(&refused).passing
        #expect(groups(refused) == [1, 1] && groups(first) == [2])
        let next = blockage.part(new: batch(state(1, 3), state(3, 1), entries(3), state(3, 2), LogWrite(group: 0)))
        // what stands before the entries waits as well: it might find no room either, and come behind them
        #expect(groups(next.passing) == [0] && groups(blockage.held) == [1, 3, 3, 3])
        #expect(groups(blockage.part(new: batch(state(3, 3), state(2, 2))).passing) == [2])
        #expect(blockage.held.writes.map { $0.hardState?.term.rawValue ?? 0 } == [3, 1, 0, 2, 3])
    }

    @Test("A replica's end stays one with the node's word of it, whichever of the two waits") func ends() {
        var refused = batch(entries(1))
        var blockage = Blockage(behind: refused)
        _ = blockage.part(&refused)
        let passing = blockage.part(new: batch(LogWrite(dropping: 2), LogWrite(group: 0, note: Bytes("without 2"))))
        #expect(groups(passing.passing) == [2, 0])
        let held = blockage.part(new: batch(LogWrite(dropping: 1), LogWrite(group: 0, note: Bytes("without 1"))))
        #expect(held.passing.writes.isEmpty)
        // a word of an earlier end waits by now, and this one's must not be written before it
        let later = blockage.part(new: batch(LogWrite(dropping: 3), LogWrite(group: 0, note: Bytes("without 3"))))
        #expect(later.passing.writes.isEmpty && groups(blockage.held) == [1, 0, 3, 0])
    }

    @Test("Without room for anything nothing is written, and whoever waits for nothing is called") func total() {
        var refused = batch(state(1, 1))
        var blockage = Blockage(behind: refused)
        #expect(groups(blockage.part(&refused).passing) == [] && groups(refused) == [1])
        var next = batch(state(2, 1))
        next.duties = [.call(1) {}, .call(2) {}, .call(3) {}, .call(nil) {}]
        let passing = blockage.part(new: next).passing
        #expect(passing.writes.isEmpty && passing.duties.compactMap(\.group) == [3])
        #expect(blockage.held.duties.map(\.group) == [1, 2, nil])
    }

    @Test("The node's word of a replica's end waits with the words before it") func wordsBeforeEnds() {
        var refused = batch(
            LogWrite(group: 0, note: Bytes("with 1")), entries(1), LogWrite(dropping: 1),
            LogWrite(group: 0, note: Bytes("without 1")))
        var blockage = Blockage(behind: refused)
        #expect(blockage.part(&refused).passing.writes.isEmpty && groups(refused) == [0, 1, 1, 0])
        var other = batch(entries(1))
        blockage = Blockage(behind: other)
        _ = blockage.part(&other)
        // the end of 3 waits for that of 1 only because both are told in one word
        let next = blockage.part(
            new: batch(
                LogWrite(dropping: 3), LogWrite(group: 0, note: Bytes("without 3")), LogWrite(dropping: 1),
                LogWrite(group: 0, note: Bytes("without 1"))))
        #expect(next.passing.writes.isEmpty && groups(blockage.held) == [3, 0, 1, 0])
    }

    @Test("No hard state goes ahead of a repair, a reset or an end; of a compaction it does") func firm() throws {
        let one = try #require(PeerID("10.0.0.1:8100:0"))
        let base = LogBase(
            position: LogPosition(term: Term(1), index: LogIndex(4)), configuration: Configuration(peers: [one]))
        var writes = [entries(1, 5), entries(2, 5), entries(3, 5), entries(4)]
        writes[0].start = .compact(base)
        writes[1].start = .reset(base)
        writes[2].debt = base.position
        var refused = batch(writes[0], writes[1], writes[2], writes[3])
        var blockage = Blockage(behind: refused)
        _ = blockage.part(&refused)
        #expect(blockage.firm == [2, 3])
        _ = blockage.part(new: batch(LogWrite(dropping: 4)))
        #expect(blockage.firm == [2, 3, 4])
    }

    @Test("What was refused as well waits like the rest, with what its groups write later") func refusedAsWell() {
        var refused = batch(entries(1))
        var blockage = Blockage(behind: refused)
        _ = blockage.part(&refused)
        let passing = blockage.part(new: batch(state(2, 1))).passing
        blockage.hold(refused: passing)
        let next = blockage.part(new: batch(state(2, 2), state(3, 1)))
        #expect(next.passing.writes.isEmpty && groups(blockage.held) == [2, 2, 3])

        // whatever has come to wait, it goes first
        refused = batch(entries(1))
        blockage = Blockage(behind: refused)
        _ = blockage.part(&refused)
        var own = entries(2)
        own.hardState = HardState(term: Term(6), vote: nil)
        let first = blockage.part(new: batch(state(2, 5), own, state(2, 7), state(3, 1))).passing
        blockage.hold(refused: first)
        #expect(groups(blockage.held) == [3, 2, 2, 2])
        #expect(blockage.held.writes.map { $0.hardState?.term.rawValue } == [1, 5, 6, 7])
    }

    @Test("A hard state that went ahead makes those before it, and no others, out of date") func overtaken() throws {
        let (one, other) = (try #require(PeerID("10.0.0.1:8100:0")), try #require(PeerID("10.0.0.2:8100:0")))
        var waiting = batch(
            state(1, 4), state(1, 5), state(1, 5, vote: one), state(2, 4),
            LogWrite(
                group: 1,
                hardState: HardState(
                    term: Term(6), vote: other)))
        waiting.forget(hardStatesBefore: [1: HardState(term: Term(5), vote: one)])
        #expect(groups(waiting) == [2, 1] && waiting.writes.map { $0.hardState?.term.rawValue } == [4, 6])
        var both = LogBatch()
        var write = entries(1)
        write.hardState = HardState(term: Term(5), vote: nil)
        both.append(write)
        both.forget(hardStatesBefore: [1: HardState(term: Term(5), vote: one)])
        #expect(both.writes.count == 1 && both.writes[0].hardState == nil && both.writes[0].entries.count == 1)
    }
}
