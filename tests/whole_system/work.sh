# Hashes, ciphers and signatures over fixed input. What has a random number in it is only verified.
cd "$1"
for hash in md5 sha1 sha256 sha512 sha3-256 blake2b512; do
    openssl dgst -$hash data
done
for cipher in aes-128-cbc aes-256-ctr aes-256-ecb chacha20 camellia-128-cbc; do
    openssl enc -$cipher -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f \
        -iv 0f0e0d0c0b0a09080706050403020100 -in data 2>/dev/null | openssl dgst -sha256
done
openssl dgst -sha256 -sign rsa.pem data | openssl dgst -sha256
openssl dgst -sha256 -sign rsa.pem -out "$2/rsa.sig" data
openssl dgst -sha256 -prverify rsa.pem -signature "$2/rsa.sig" data
openssl dgst -sha256 -sign ec.pem -out "$2/ec.sig" data
openssl dgst -sha256 -prverify ec.pem -signature "$2/ec.sig" data
openssl pkeyutl -sign -inkey ed.pem -rawin -in data | openssl dgst -sha256
openssl prime -hex FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFFFFFFFFFFFF
