-- refs_within.sql($1 repo_id, $2 snapshot, $3 moment): where the refs were at this moment that had moved by then since
-- the snapshot before; null: it was not there.
select distinct on (ref.id) ref.name, move.new
from moment
join moment by_then on by_then.repo_id = $1 and by_then.snapshot = $2 and by_then.place <= moment.place
join ref_change move on move.repo_id = $1 and move.snapshot = $2 and move.moment = by_then.number
join ref on ref.id = move.ref_id
where moment.repo_id = $1 and moment.snapshot = $2 and moment.number = $3
order by ref.id, move.position desc
