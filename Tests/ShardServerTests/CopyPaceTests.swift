import RaftCore
import Testing

@testable import ShardServer

@Suite("How fast a shard is copied, and when it may freeze") struct CopyPaceTests {
    @Test("a node rests as long as a piece took") func rest() {
        var pace = CopyPace()
        var now = Instant(nanoseconds: 0)
        for took in [4, 40, 3].map({ Interval.milliseconds($0) }) {
            #expect(pace.next <= now)
            _ = pace.begin(now)
            now = now + took
            pace.applied(after: took, paced: true, now)
            #expect(pace.next == now + took)
            now = pace.next
        }
    }

    @Test("two groups' pieces come in turn, not at once") func turns() {
        var pace = CopyPace()
        pace.applied(after: .milliseconds(10), paced: true, Instant(nanoseconds: 0))
        let first = pace.next
        _ = pace.begin(first)
        #expect(pace.next == first + .milliseconds(20))
        // it takes longer than the last one
        pace.applied(after: .milliseconds(15), paced: true, first + .milliseconds(15))
        #expect(pace.next == first + .milliseconds(30))
    }

    @Test("a question that brings no piece keeps nobody waiting, nor does a piece of a shard in a hurry") func idle() {
        var pace = CopyPace()
        pace.applied(after: .milliseconds(100), paced: true, Instant(nanoseconds: 0))
        let due = pace.next
        for round in 0..<50 {
            let now = due + .milliseconds(20 * round)
            let question = pace.begin(now)
            #expect(pace.next == now + .milliseconds(200))
            pace.cancel(question)
            #expect(pace.next == due)
            pace.applied(after: .milliseconds(100), paced: false, now)
            #expect(pace.next == due)
        }
        // one that another piece has overtaken takes nothing back
        let late = pace.begin(due)
        pace.applied(after: .milliseconds(30), paced: true, due + .milliseconds(30))
        pace.cancel(late)
        #expect(pace.next == due + .milliseconds(60))
    }

    @Test("a piece that took as long as an election is no measure") func bound() {
        var pace = CopyPace()
        pace.applied(after: .milliseconds(20_000), paced: true, Instant(nanoseconds: 0))
        #expect(pace.next == Instant(nanoseconds: 0) + .milliseconds(1000))
    }

    @Test("what came up during a long scan is copied before the source freezes") func patience() {
        var patience = TailPatience()
        // a scan of 4000 pieces, and writes meanwhile of 400 more
        for piece in 1...400 {
            patience.take(bytesLeft: 1 << 20)
            #expect(patience.tailBytes(ofPieces: 4000 + UInt64(piece)) == 64 << 10)
            #expect(patience.excess(ofPieces: 4000 + UInt64(piece)) == 0)
        }
    }

    @Test("a shard that is written faster than copied freezes some time") func impatience() {
        var patience = TailPatience()
        var pieces: UInt64 = 100
        while patience.tailBytes(ofPieces: pieces) < 1 << 20, pieces < 10_000 {
            patience.take(bytesLeft: 1 << 20)
            pieces += 1
        }
        #expect(pieces < 1000)
        patience.take(bytesLeft: 1000)
        #expect(patience.tailBytes(ofPieces: pieces) == 64 << 10)
    }

    @Test("a small shard has some patience too") func small() {
        var patience = TailPatience()
        for _ in 0..<31 { patience.take(bytesLeft: nil) }
        #expect(patience.tailBytes(ofPieces: 2) == 64 << 10)
        patience.take(bytesLeft: nil)
        #expect(patience.tailBytes(ofPieces: 2) == 128 << 10)
    }
}
