import Testing

@testable import RaftCore

@Suite("Dissertation §10.2.1 Writing to the leader's disk in parallel")
struct ParallelDiskTests {
    @Test("entries leave before the leader's own disk has them")
    func parallel() {
        var stage = Stage.settled()
        let effects = stage.step(.proposed(count: 2))
        #expect(effects.logChange?.count == 2 && effects.appends(to: b).map(\.count) == [2])
        #expect(effects.durableMessages.isEmpty && stage.raft.durableIndex == index(1))
    }

    @Test("they may be committed by a majority of others, but are applied here only when this disk has them")
    func committedWithoutOwnDisk() {
        var stage = Stage.settled()
        stage.step(.proposed(count: 2))
        stage.catchUp([b, c])
        #expect(stage.raft.commitIndex == index(3) && stage.effects.applicable == nil)
        #expect(stage.persist().applicable == index(3))
    }

    @Test("its own disk counts only for what it holds, write by write")
    func ownMarks() {
        var stage = Stage.settled()
        stage.step(.proposed(count: 1))
        let first = stage.raft.durableMark
        stage.step(.proposed(count: 1))
        stage.catchUp([b])
        stage.step(.persisted(first))
        #expect(stage.raft.commitIndex == index(2))
        stage.persist()
        #expect(stage.raft.commitIndex == index(3))
    }

    @Test("a sole voter sends nothing before its disk has the vote that made it leader: forgotten, it would lead again")
    func soleVoter() {
        var stage = Stage(members: [a], learners: [d])
        let effects = stage.reachDeadline()
        #expect(stage.raft.isLeader && effects.messages.isEmpty && effects.durableMessages.map(\.to) == [d])
        stage.gainSupport(from: [d])
        #expect(stage.effects.messages.isEmpty)
        stage.persist()
        stage.catchUp([d])
        #expect(stage.step(.proposed(count: 1)).appends(to: d).map(\.count) == [1])
    }
}
