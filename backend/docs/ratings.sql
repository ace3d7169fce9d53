-- The app's ratings, as the build reads them best. For Supabase's SQL editor, or psql; it can be run
-- again. An app that has such a table under other names sets APP_RATINGS_TABLE and the like instead.

begin;

create table if not exists public.ratings (
  user_id uuid not null references auth.users (id) on delete cascade,
  movie_id integer not null check (movie_id > 0),  -- TMDB
  -- On another APP_RATINGS_SCALE: smallint between 1 and 10; or boolean, without a check.
  rating real not null check (rating between 0.5 and 5),
  -- One rating of a film by a user; and the order of pages over REST, each read from this index.
  primary key (user_id, movie_id)
);
do $$
begin
  if not exists (select from pg_constraint
                 where conrelid = 'public.ratings'::regclass and contype = 'p') then
    raise exception 'public.ratings was there before, without a primary key: '
                    'alter table public.ratings add primary key (user_id, movie_id)';
  end if;
end $$;
-- For the app's own questions about one film; the build has no use of it.
create index if not exists ratings_movie_id on public.ratings (movie_id);

-- Users see and change their own ratings, and nobody else's. The service-role key, the table's owner
-- and roles with bypassrls are not held by policies: the build is one of these.
alter table public.ratings enable row level security;
revoke all on public.ratings from anon, authenticated;
grant select, insert, update, delete on public.ratings to authenticated, service_role;

drop policy if exists "own ratings" on public.ratings;
create policy "own ratings" on public.ratings to authenticated
  using ((select auth.uid()) = user_id)
  with check ((select auth.uid()) = user_id);

commit;

-- For SUPABASE_DB_URL, a role that can read the ratings and no more, where you may make one with
-- bypassrls (before PostgreSQL 16 that takes a superuser); else the table's owner will do. Take a
-- password of your own; of another table grant usage on its schema, and select on it. On Supabase's
-- pooler the user is ratings_reader.PROJECT.
--
--   create role ratings_reader login bypassrls password '...';
--   grant usage on schema public to ratings_reader;
--   grant select on public.ratings to ratings_reader;
