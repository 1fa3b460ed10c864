import RaftCore
import ShardMap
import Testing

@testable import raftctl

@Suite("Resets by force") struct ForcedResetTests {
    private func reset(
        _ wanted: [Int], on: Int? = nil, _ world: SmallCluster
    ) throws(Failure) -> ForcedReset {
        try ForcedReset(
            "g1", to: wanted.map { SmallCluster.peers[$0] }, on: on.map { SmallCluster.peers[$0] }, world.state)
    }

    private func refusal(_ body: () throws(Failure) -> Void) -> String {
        do throws(Failure) { try body() } catch { return error.message }
        return ""
    }

    private func invocation(_ values: [String: String]) -> Invocation {
        Invocation(
            seeds: [], format: .table, timeout: .milliseconds(1), positionals: ["g1", "x"], values: values)
    }

    @Test("the only one that is up begins, and the plan says what is lost and who goes")
    func plan() throws {
        var world = SmallCluster()
        world.down(1, 2)
        let reset = try reset([0], world)
        #expect(reset.on == SmallCluster.peers[0] && reset.target == [SmallCluster.peers[0]] && !reset.isInForce)
        #expect(reset.plan.replicas.map(\.change) == ["stays", "goes", "goes"])
        #expect(reset.plan.stages.map(\.bears) == [-1, 0])
        #expect(reset.plan.notes.first?.contains("was committed behind entry 50") == true)
        try reset.judge(invocation(["unsafe": "", "token": reset.plan.token ?? ""]))
        #expect(refusal { () throws(Failure) in try reset.judge(invocation([:])) }.contains("--unsafe"))
        for (token, words) in [
            ("x", "is no token"), (PlanToken(version: 99, planned: []).description, "plan it again"),
        ] {
            let values = ["unsafe": "", "token": token]
            #expect(refusal { () throws(Failure) in try reset.judge(invocation(values)) }.contains(words))
        }
        let both = try self.reset([0, 1], world)
        #expect(both.plan.token != reset.plan.token)
        let values = ["unsafe": "", "token": both.plan.token ?? ""]
        #expect(
            refusal { () throws(Failure) in try reset.judge(invocation(values)) }.contains("that of another command"))
    }

    @Test("of several that are up one has to be named, best the one whose log is longest")
    func choice() throws {
        var world = SmallCluster()
        world.nodes[2] = nil
        world.nodes[0]?.replicas[1].state = "candidate"
        world.nodes[1]?.replicas[1].lastIndex = 60
        #expect(refusal { () throws(Failure) in _ = try reset([0, 1], world) }.contains("--on 127.0.0.1:8102"))
        let named = try reset([0, 1], on: 0, world)
        #expect(named.plan.notes.contains { $0.contains("has entries up to 60: let that one begin") })
        #expect(refusal { () throws(Failure) in _ = try reset([0], on: 1, world) }.contains("is not among the members"))
        #expect(refusal { () throws(Failure) in _ = try reset([2], world) }.contains("none of the members"))
    }

    @Test("a group that is led is not reset, but one whose reset is to be recorded is done again")
    func led() throws {
        var world = SmallCluster()
        let values = ["unsafe": ""]
        let led = try reset([0, 1, 2], on: 0, world)
        #expect(led.isInForce, "nothing would change")
        let early = try reset([0], world)
        #expect(refusal { () throws(Failure) in try early.judge(invocation(values)) }.contains("it has its majority"))
        world.nodes[0]?.replicas[1].peers = [SmallCluster.peers[0]]
        world.nodes[1] = nil
        world.nodes[2] = nil
        let again = try reset([0], world)
        #expect(again.isInForce)
        try again.judge(invocation(values))
    }
}
