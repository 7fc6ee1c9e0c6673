(* All independent type errors of a program whose check as a whole has failed. *)

type error = { where : Location.t; message : string; cause : exn }

let find (_environment : Env.t) (_items : Parsetree.structure) ~(first : exn) : error list =
  [ { where = Location.none; message = Printexc.to_string first; cause = first } ]
