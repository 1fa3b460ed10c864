import Testing

@testable import RaftCore

@Suite("Priorities")
struct PriorityTests {
    @Test("a replica that would not campaign but was told to gives up in the end, and rests")
    func toldToCampaign() {
        var settings = RaftSettings()
        settings.electionPriority = 0
        var stage = Stage(settings: settings)
        stage.hear(from: b, term: 3)
        #expect(stage.raft.deadline == nil)
        stage.receive(.timeoutNowRequest(TimeoutNowRequest(term: Term(3), oldLeaderSteppedDown: false)), from: b)
        #expect(stage.raft.role == .candidate)
        stage.reachDeadline()
        #expect(stage.raft.role == .follower && stage.raft.deadline == nil && stage.raft.leader == nil)
    }
}
