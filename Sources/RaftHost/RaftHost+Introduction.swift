import CMessages
public import RaftCore
import WireMessages

extension RaftHost {
    /// The address of the node that says hello with this request, whether or not it is welcome; nil if none does. Any
    /// thread.
    public static func node(introducedBy service: String, _ method: String, _ body: Bytes) -> NodeAddress? {
        guard service == nodeService, method == "hello" else { return nil }
        let arena = Arena()
        return arena.scope { arena in
            arena.unpack(flotilla__hello_request__init, body).flatMap { NodeAddress(String(field: $0.pointee.address)) }
        }
    }
}
