(* All independent type errors of a program whose check as a whole has failed. *)

type error = { where : Location.t; message : string; cause : exn }

let message_of exn =
  match Location.error_of_exn exn with
  | Some (`Ok report) -> Format.asprintf "%t" report.Location.main.Location.txt
  | Some `Already_displayed | None -> Printexc.to_string exn

let of_exn exn = 
  let where = match Location.error_of_exn exn with Some (`Ok report) -> report.Location.main.Location.loc | _ -> Location.none in
  { where; message = message_of exn; cause = exn }
let find (_environment : Env.t) (_items : Parsetree.structure) ~(first : exn) : error list =
  [ of_exn first ]
