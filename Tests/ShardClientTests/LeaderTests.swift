import RaftCore
import ShardMap
import Testing

@testable import ShardClient

@Suite("Finding the leader") struct LeaderTests {
    @Test func aHintIsFollowedAtOnceAndRemembered() {
        let script = Script()
        let answer = script.execute([get("a")])
        let first = script.takeOne()
        #expect(first.node == .n(1))
        first.answer(.notLeader, leader: .n(3))
        let second = script.takeOne()
        #expect(second.node == .n(3) && second.time == .ms(0))
        second.answer([.text("A")])
        script.turn()
        #expect(answer.results == [.text("A")])
        _ = script.execute([set("b")])
        #expect(script.takeOne().node == .n(3))
    }

    @Test func hintsInACircleArePaced() {
        let script = Script()
        _ = script.execute([get("a")])
        var times: [Int] = []
        var nodes: [NodeAddress] = []
        for milliseconds in 0..<200 {
            script.run(to: milliseconds)
            while let sent = script.take().first {
                times.append(milliseconds)
                nodes.append(sent.node)
                sent.answer(.notLeader, leader: sent.node == .n(1) ? .n(2) : .n(1))
            }
        }
        #expect(times == [0, 0, 20, 20, 60, 60, 140, 140])
        #expect(nodes == [1, 2, 1, 2, 1, 2, 1, 2].map { .n($0) })
    }

    @Test func withoutHintTheReplicasAreAskedInTurnWithDoublingPauses() {
        let script = Script()
        let answer = script.execute([get("a")], by: 3000)
        var log: [(Int, NodeAddress)] = []
        for milliseconds in 0...3000 {
            script.run(to: milliseconds)
            for sent in script.take() {
                log.append((milliseconds, sent.node))
                sent.answer(.notSent("connection refused"))
            }
        }
        #expect(log.map(\.0) == [0, 20, 60, 140, 300, 620, 1120, 1620, 2120, 2620])
        #expect(log.map(\.1) == [1, 2, 3, 1, 2, 3, 1, 2, 3, 1].map { .n($0) })
        #expect(answer.errors == [.deadlineExceeded])
        #expect(answer.time == .ms(3000))
        #expect(answer.results?[0].message == "10.0.0.1:80: connection refused")
    }

    /// A group with members at addresses of no node.
    private func mixed(_ numbers: [Int]) -> ClusterMap {
        var map = ClusterMap.one
        map.groups[1].peers = numbers.map { PeerID(address: .n($0)) }
        return map
    }

    @Test func membersOfAnotherProgramAreNotAskedWhoeverNamesThem() {
        let script = Script(map: mixed([8, 1, 2]))
        let answer = script.execute([get("a")], by: 1000)
        var asked: [NodeAddress] = []
        for milliseconds in 0...1000 {
            script.run(to: milliseconds)
            for sent in script.take() {
                asked.append(sent.node)
                sent.answer(.notLeader, leader: .n(8))
            }
        }
        #expect(asked.count > 3 && Set(asked) == [.n(1), .n(2)])
        #expect(answer.errors == [.deadlineExceeded])
    }

    @Test func aLeaderThatTurnsOutToRunAnotherProgramIsForgotten() {
        let script = Script()
        _ = script.execute([get("a")])
        let first = script.takeOne()
        first.answer(.notLeader, leader: .n(8))
        script.takeOne().answer([.text("A")])
        script.turn()
        var map = mixed([8, 1, 2])
        map.version = 2
        script.served = map
        script.router.updateMap(map)
        _ = script.execute([get("a")])
        #expect(script.takeOne().node == .n(1))
    }

    @Test func aGroupWithMembersOfAnotherProgramOnlySaysSoAtOnce() {
        let script = Script(map: mixed([8, 9]))
        let calls = [[get("a")], [set("a")]].map { script.execute($0) }
        #expect(script.take().isEmpty)
        for call in calls {
            #expect(call.errors == [.notServed])
            #expect(call.results?[0].message == "all members of g1 run another program, which serves no keys")
        }
    }

    @Test func manyFailuresAtOnceMoveOnByOneNode() {
        let script = Script()
        var flying: [Sent] = []
        for key in ["a", "b", "c"] {
            _ = script.execute([get(key)])
            flying += script.take()
        }
        for sent in flying { sent.answer(.lost("connection broke")) }
        script.run(to: 20)
        #expect(script.take().map(\.node) == [.n(2), .n(2), .n(2)])
    }

    @Test func whoeverGaveAWrongHintIsNotAskedNext() {
        let script = Script()
        _ = script.execute([get("a")])
        script.takeOne().answer(.notLeader, leader: .n(2))
        let second = script.takeOne()
        #expect(second.node == .n(2))
        second.answer(.notSent("connection refused"))
        script.run(to: 20)
        #expect(script.takeOne().node == .n(3))
    }

    @Test func witnessesAreNotAsked() {
        var map = ClusterMap.one
        map.groups[1].peers[0] = PeerID(address: .n(1), role: .witness)
        let script = Script(map: map)
        _ = script.execute([get("a")])
        #expect(script.takeOne().node == .n(2))
    }

    @Test func anAttemptWithoutAnswerIsGivenUpAtItsTimeout() {
        let script = Script(settings: Settings.with { $0.attemptTimeout = .milliseconds(100) })
        let answer = script.execute([get("a")])
        let first = script.takeOne()
        #expect(first.deadline == .ms(100) && first.request.deadlineMilliseconds == 100)
        script.run(to: 119)
        #expect(script.take().isEmpty)
        script.run(to: 120)
        let second = script.takeOne()
        #expect(second.time == .ms(120) && second.node == .n(2))
        first.answer([.text("late")])
        script.turn()
        #expect(answer.results == nil, "an answer to an attempt given up is not heard")
        second.answer([.text("A")])
        script.turn()
        #expect(answer.results == [.text("A")])
    }

    @Test func theLastAttemptEndsWithTheDeadline() {
        let script = Script()
        _ = script.execute([get("a")], by: 70)
        #expect(script.takeOne().deadline == .ms(70))
    }

    @Test func routersOfOneSeedDoTheSame() {
        func trace(seed: UInt64) -> [String] {
            let script = Script(seed: seed)
            script.opensSessions = false
            _ = script.execute([set("a")])
            let open = script.takeOne()
            open.answer(.reply(ExecuteReply(session: 71)))
            return [open, script.takeOne()].map { "\($0.node) \($0.command?.array ?? [])" }
        }
        #expect(trace(seed: 5) == trace(seed: 5))
        #expect(trace(seed: 5) != trace(seed: 6))
    }
}
