-- lanes_telling.sql($1 repo_id, $2 first snapshot, $3 last, $4 LIKE pattern or null, $5 limit): which refs moved in these snapshots, the most telling first.
-- What the first snapshot of all created is no move: it was there before anybody looked. Branches and tags come before all others.
select told.*, ref.name
from (
  select
    ref_id, count(*) as moves,
    count(*) filter (where kind in ('forced', 'deleted')) as taken,
    max(snapshot) as last,
    count(*) over () as refs_moved, sum(count(*)) over () as all_moves
  from ref_change
  where repo_id = $1 and snapshot between greatest($2, 2) and $3
    and ($4::bytea is null or ref_id in (select id from ref where repo_id = $1 and name like $4))
  group by ref_id
) told
join ref on ref.id = told.ref_id
where ref.name <> 'HEAD'::bytea
order by
  (substring(ref.name from 1 for 11) = 'refs/heads/'::bytea or substring(ref.name from 1 for 10) = 'refs/tags/'::bytea) desc,
  told.taken > 0 desc, told.last desc, told.moves desc
limit $5
