import RaftCore
import Testing

@testable import ShardServer

@Suite("How much a node takes at a time") struct AdmissionTests {
    private static func at(_ milliseconds: Int) -> Instant { Instant(nanoseconds: 0) + .milliseconds(milliseconds) }

    /// One that expectations may change.
    private final class Desk {
        private var admission: Admission
        init(_ settings: ShardServer.Settings.Admission) { admission = Admission(settings) }
        var requests: Int { admission.requests }
        var bytes: Int { admission.bytes }
        var refused: UInt64 { admission.refused }
        func admit(_ bytes: Int, to group: String = "g", now: Instant) -> Bool {
            admission.admit(bytes, to: group, now: now)
        }
        func finish(_ bytes: Int, to group: String = "g", now: Instant) { admission.finish(bytes, to: group, now: now) }
    }

    private static func admission(requests: Int = 1000, bytes: Int = 1 << 20, patience: Int = 100) -> Desk {
        var settings = ShardServer.Settings.Admission()
        settings.requests = requests
        settings.bytes = bytes
        settings.patience = .milliseconds(patience)
        return Desk(settings)
    }

    @Test("So many requests, and so many bytes, until one is answered; half as many of one group")
    func bounds() {
        let admission = Self.admission(requests: 300)
        let taken = (0..<1000).count { admission.admit(1, to: "g\($0 % 3)", now: Self.at(0)) }
        #expect(taken == 300 && admission.requests == 300 && admission.refused == 700)
        admission.finish(1, to: "g1", now: Self.at(1))
        #expect(admission.admit(1, to: "g2", now: Self.at(1)) && !admission.admit(1, to: "g1", now: Self.at(1)))

        let single = Self.admission(requests: 300)
        let ofOne = (0..<1000).count { _ in single.admit(1, now: Self.at(0)) }
        #expect(ofOne == 150 && single.admit(1, to: "another", now: Self.at(0)))

        let narrow = Self.admission(bytes: 100)
        // a single one may be larger than what is left
        #expect(narrow.admit(60, to: "a", now: Self.at(0)) && narrow.admit(60, to: "b", now: Self.at(0)))
        #expect(!narrow.admit(1, to: "c", now: Self.at(0)))
        narrow.finish(60, to: "a", now: Self.at(1))
        #expect(narrow.bytes == 60 && narrow.admit(1, to: "c", now: Self.at(1)))
        #expect(!narrow.admit(1, to: "b", now: Self.at(1)), "it has its part")
    }

    @Test("A group that stands still keeps nobody out of the others") func others() {
        let admission = Self.admission()
        for _ in 0..<400 { #expect(admission.admit(1, to: "stuck", now: Self.at(0))) }
        for moment in 1...300 {
            #expect(admission.admit(1, to: "g", now: Self.at(20 * moment)))
            admission.finish(1, to: "g", now: Self.at(20 * moment + 1))
        }
        #expect(admission.requests == 400)
    }

    @Test("Nobody joins a line that moves, and whose head waits for too long")
    func lateness() {
        let admission = Self.admission()
        for number in 0..<500 { #expect(admission.admit(1, now: Self.at(number / 10))) }
        // ten answers each 10 ms: the head is that of millisecond 9 after the ninety
        for answer in 1...9 { for _ in 0..<10 { admission.finish(1, now: Self.at(50 + 10 * answer)) } }
        #expect(admission.admit(1, now: Self.at(109)))
        #expect(!admission.admit(1, now: Self.at(140)), "the head came at 9")
        // what waits is answered, and the line is short again
        for _ in 0..<400 { admission.finish(1, now: Self.at(150)) }
        #expect(admission.requests == 11 && admission.admit(1, now: Self.at(200)))
    }

    @Test("A few that wait for long are no line: they may be those of one group that stands still")
    func few() {
        let admission = Self.admission()
        for _ in 0..<90 { #expect(admission.admit(1, now: Self.at(0))) }
        for moment in 1...9 {
            #expect(admission.admit(1, now: Self.at(1000 * moment)))
            admission.finish(1, now: Self.at(1000 * moment + 1))
            #expect(admission.admit(1, now: Self.at(1000 * moment + 2)))
            admission.finish(1, now: Self.at(1000 * moment + 3))
        }
    }

    @Test("A line in which nothing moves keeps nobody out")
    func standstill() {
        let admission = Self.admission()
        for _ in 0..<200 { #expect(admission.admit(1, now: Self.at(0))) }
        admission.finish(1, now: Self.at(5))
        #expect(admission.admit(1, now: Self.at(100)), "it is young")
        #expect(!admission.admit(1, now: Self.at(900)), "it is old, and moved a moment ago")
        #expect(admission.admit(1, now: Self.at(5000)), "nothing was answered for long: that is no load")
        // it moves again
        admission.finish(1, now: Self.at(5001))
        #expect(!admission.admit(1, now: Self.at(5002)))
    }

    @Test("The line keeps its order while it grows and goes round")
    func ring() {
        let admission = Self.admission(requests: 200_000, bytes: 1 << 30, patience: 10)
        var (came, answered) = (0, 0)
        for round in 1...200 {
            for _ in 0..<round {
                #expect(admission.admit(3, now: Self.at(came / 100)))
                came += 1
            }
            while answered < came - round / 2 {
                admission.finish(3, now: Self.at(came / 100))
                answered += 1
            }
            #expect(admission.requests == came - answered && admission.bytes == 3 * (came - answered))
        }
    }
}
