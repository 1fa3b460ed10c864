import CMessages
import RaftCore
import RaftHost
import ShardMap
import Transport
import WireMessages

// What an operator asks of one replica, whoever leads its group: to save its state.

extension ShardServer {
    /// Answers `save_replica`, when it is done.
    func answerSaveReplica(_ request: RpcRequest) {
        let group = arena.scope { arena in
            arena.unpack(flotilla__save_replica_request__init, request.body).map { String(field: $0.pointee.group) }
        }
        guard let group else { return request.responder.fail(RpcCode.badRequest, "malformed order") }
        host.save(group) { [self] outcome in
            arena.scope { arena in
                let reply = arena.make(flotilla__save_replica_reply__init)
                switch outcome {
                case .saved(let state):
                    reply.pointee.error = 0
                    (reply.pointee.has_index, reply.pointee.index) = (1, state.index.rawValue)
                    (reply.pointee.has_first_index, reply.pointee.first_index) = (1, state.firstIndex.rawValue)
                case .failed(let problem):
                    reply.pointee.error = (host.holds(group) ? NamedError.refused : .noSuchGroup).rawValue
                    reply.pointee.message = arena.string(problem)
                }
                request.responder.reply(reply)
            }
        }
    }
}
